//! Schema registries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::{CodecError, CodecErrorKind};

/// Keeps schemas by number. Its calls may block; their answers are cached by who calls, since a number never changes its meaning.
pub trait SchemaRegistry: Send + Sync {
    /// Returns the Avro schema of an id, in JSON.
    ///
    /// # Errors
    /// [`CodecErrorKind::UnknownSchema`] if there is none, [`CodecErrorKind::Unavailable`] if it cannot be asked now.
    fn schema(&self, id: u32) -> Result<String, CodecError>;

    /// Registers an Avro schema, in JSON, under a subject, or finds it there; returns its id.
    ///
    /// # Errors
    /// [`CodecErrorKind::Incompatible`] if the subject does not take it, [`CodecErrorKind::Unavailable`] if it cannot be asked now.
    fn register(&self, subject: &str, schema: &str) -> Result<u32, CodecError>;
}

impl<R: SchemaRegistry + ?Sized> SchemaRegistry for Arc<R> {
    fn schema(&self, id: u32) -> Result<String, CodecError> {
        R::schema(self, id)
    }

    fn register(&self, subject: &str, schema: &str) -> Result<u32, CodecError> {
        R::register(self, subject, schema)
    }
}

fn unknown(id: u32) -> CodecError {
    let message =
        format!("the registry has no schema of id {id}; was the payload written with another registry's?");
    CodecError::new(CodecErrorKind::UnknownSchema, message)
}

/// A registry in this process, for tests. Takes every schema under every subject; clones are the same registry.
#[derive(Clone, Debug, Default)]
pub struct MemoryRegistry(Arc<Mutex<Vec<String>>>);

impl SchemaRegistry for MemoryRegistry {
    fn schema(&self, id: u32) -> Result<String, CodecError> {
        let place = (id as usize).checked_sub(1);
        place.and_then(|place| self.0.lock().get(place).cloned()).ok_or_else(|| unknown(id))
    }

    fn register(&self, _: &str, schema: &str) -> Result<u32, CodecError> {
        let mut schemas = self.0.lock();
        let place = schemas.iter().position(|known| known == schema).unwrap_or_else(|| {
            schemas.push(schema.to_owned());
            schemas.len() - 1
        });
        Ok(u32::try_from(place).unwrap_or(u32::MAX).saturating_add(1))
    }
}

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const ANSWER: u64 = 4 << 20;
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// A registry with Confluent's REST API: Confluent's, Karapace, Apicurio and Redpanda have it. Schemas that refer to others are not
/// supported.
///
/// Calls block; each takes 5 s at most unless [`timeout`](Self::timeout) says otherwise.
#[derive(Clone)]
pub struct HttpRegistry {
    url: String,
    authorization: Option<String>,
    agent: ureq::Agent,
}

impl HttpRegistry {
    /// Makes a client of the registry at a URL, such as `http://registry:8081`. Nothing is asked yet.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        let url = url.into().trim_end_matches('/').to_owned();
        Self { url, authorization: None, agent: agent(TIMEOUT) }
    }

    /// Sets how long a call may take, all in all.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.agent = agent(timeout);
        self
    }

    /// Says who asks, by basic authentication: user and password, or API key and secret.
    #[must_use]
    pub fn credentials(mut self, user: &str, password: &str) -> Self {
        self.authorization = Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))));
        self
    }

    fn get(&self, path: &str) -> Result<Answer, CodecError> {
        let mut request = self.agent.get(format!("{}{path}", self.url)).header("accept", MEDIA_TYPE);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.call())
    }

    fn post(&self, path: &str, body: &str) -> Result<Answer, CodecError> {
        let request = self.agent.post(format!("{}{path}", self.url)).header("accept", MEDIA_TYPE);
        let mut request = request.content_type(MEDIA_TYPE);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.send(body))
    }

    fn answer(
        &self,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, CodecError> {
        let unreachable = |error| {
            let message = format!(
                "the schema registry at {} cannot be reached; is it up, and is the URL right?",
                self.url
            );
            CodecError::new(CodecErrorKind::Unavailable, message).with_source(error)
        };
        let mut response = response.map_err(unreachable)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(ANSWER).read_to_string().map_err(unreachable)?;
        Ok(Answer { status, body })
    }

    /// What the registry's refusal means, where the call has no meaning of its own for it.
    fn refused(&self, answer: &Answer) -> CodecError {
        let Answer { status, .. } = answer;
        let (kind, advice) = match status {
            401 | 403 => (CodecErrorKind::Refused, "check the credentials"),
            429 | 500.. => (CodecErrorKind::Unavailable, "try again later"),
            _ => (CodecErrorKind::Refused, "is this the URL of a schema registry?"),
        };
        let message = format!("the schema registry at {} answered {status}; {advice}", self.url);
        CodecError::new(kind, message).with_source(answer.says())
    }
}

fn agent(timeout: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false);
    config.build().into()
}

impl fmt::Debug for HttpRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRegistry").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What came back.
struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, CodecError> {
        serde_json::from_str(&self.body).map_err(|error| {
            let message = "the schema registry's answer is not what its API says; is this the URL of a schema registry?";
            CodecError::new(CodecErrorKind::Refused, message).with_source(error)
        })
    }

    /// The registry's own words.
    fn says(&self) -> String {
        #[derive(Deserialize)]
        struct Complaint {
            error_code: u32,
            message: String,
        }
        match serde_json::from_str::<Complaint>(&self.body) {
            Ok(complaint) => format!("{} ({})", complaint.message, complaint.error_code),
            Err(_) => self.body.chars().take(200).collect(),
        }
    }
}

impl SchemaRegistry for HttpRegistry {
    fn schema(&self, id: u32) -> Result<String, CodecError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            schema: String,
            schema_type: Option<String>,
            #[serde(default)]
            references: Vec<serde_json::Value>,
        }
        let answer = self.get(&format!("/schemas/ids/{id}"))?;
        if answer.status == 404 {
            return Err(unknown(id).with_source(answer.says()));
        }
        if !answer.is_ok() {
            return Err(self.refused(&answer));
        }
        let found: Found = answer.read()?;
        let other = found.schema_type.filter(|kind| kind != "AVRO");
        let wrong = match other {
            Some(kind) => Some(format!("the schema of id {id} is {kind} and not Avro")),
            None if !found.references.is_empty() => Some(format!(
                "the schema of id {id} refers to others, which is not supported; put them in one"
            )),
            None => None,
        };
        match wrong {
            Some(message) => Err(CodecError::new(CodecErrorKind::UnknownSchema, message)),
            None => Ok(found.schema),
        }
    }

    fn register(&self, subject: &str, schema: &str) -> Result<u32, CodecError> {
        #[derive(Deserialize)]
        struct Registered {
            id: u32,
        }
        let body = json!({ "schema": schema }).to_string();
        let answer = self.post(&format!("/subjects/{}/versions", escaped(subject)), &body)?;
        let refused = |kind, what| {
            let message =
                format!("the schema registry does not take the schema under subject {subject}: {what}");
            Err(CodecError::new(kind, message).with_source(answer.says()))
        };
        match answer.status {
            200..300 => answer.read::<Registered>().map(|registered| registered.id),
            409 => refused(CodecErrorKind::Incompatible, "it is incompatible with an earlier one"),
            422 => refused(CodecErrorKind::InvalidInput, "it is not valid"),
            _ => Err(self.refused(&answer)),
        }
    }
}

/// A subject as one part of a path.
fn escaped(subject: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    subject
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
