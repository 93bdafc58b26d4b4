//! Confluent's framing, with a registry that speaks its REST API over HTTP.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mq_codec::{CodecErrorKind, ConfluentAvro, Decode, Encode, HttpRegistry, MemoryRegistry, SchemaRegistry};
use serde::{Deserialize, Serialize};

const FIRST: &str = r#"{"type":"record","name":"Order","fields":[{"name":"item","type":"string"}]}"#;
const SECOND: &str = r#"{"type":"record","name":"Order","fields":[{"name":"item","type":"string"},{"name":"count","type":"int","default":1}]}"#;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    item: String,
    count: i32,
}

/// An answer: a status and a body, or `None` to say nothing and hold the connection.
type Answer = Option<(u16, String)>;

/// A server that gives prepared answers, one a connection, and notes what it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (mut answers, noted) = (answers.into_iter().collect::<VecDeque<_>>(), asked.clone());
        thread::spawn(move || {
            let mut held = Vec::new();
            while let Some(answer) = answers.pop_front() {
                let (mut stream, _) = listener.accept().unwrap();
                noted.lock().unwrap().push(request(&stream));
                match answer {
                    Some((status, body)) => respond(&mut stream, status, &body),
                    None => held.push(stream),
                }
            }
            // Until the test ends.
            thread::park();
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Reads a request: its first line, whether it says who asks, and its body.
fn request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut noted, mut length) = (String::new(), 0);
    reader.read_line(&mut noted).unwrap();
    noted = noted.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end();
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap();
            }
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                noted += &format!(" as {value}");
            }
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    if length > 0 { format!("{noted} {}", String::from_utf8(body).unwrap()) } else { noted }
}

fn respond(stream: &mut TcpStream, status: u16, body: &str) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
}

fn schema(text: &str) -> Answer {
    Some((200, serde_json::json!({ "schema": text }).to_string()))
}

fn complaint(status: u16, code: u32) -> Answer {
    Some((status, format!(r#"{{"error_code":{code},"message":"in its own words"}}"#)))
}

fn orders(server: &Server) -> ConfluentAvro<Order, HttpRegistry> {
    ConfluentAvro::new("orders-value", SECOND, HttpRegistry::new(&server.url)).unwrap()
}

fn order(count: i32) -> Order {
    Order { item: "book".into(), count }
}

#[test]
fn each_schema_is_asked_for_once() {
    let server = Server::start([Some((200, r#"{"id":70000}"#.into())), schema(SECOND), schema(FIRST)]);
    let orders = orders(&server);
    for count in 0..10 {
        let payload = orders.encode(&order(count)).unwrap();
        assert_eq!(payload[..5], [0, 0, 1, 0x11, 0x70]);
        assert_eq!(orders.clone().decode(&payload).unwrap(), order(count));
        // Written with the first schema, of id 7.
        let old = [&[0, 0, 0, 0, 7, 8][..], b"book"].concat();
        assert_eq!(orders.decode(&old.into()).unwrap(), order(1));
    }
    let body = serde_json::json!({ "schema": SECOND }).to_string();
    let register = format!("POST /subjects/orders-value/versions {body}");
    assert_eq!(server.asked(), [register.as_str(), "GET /schemas/ids/70000", "GET /schemas/ids/7"]);
}

#[test]
fn who_asks_is_said_and_a_subject_is_escaped() {
    let server = Server::start([Some((200, r#"{"id":1}"#.into()))]);
    let registry = HttpRegistry::new(format!("{}/", server.url)).credentials("key", "secret");
    assert!(!format!("{registry:?}").contains("c2VjcmV0") && !format!("{registry:?}").contains("secret"));
    assert_eq!(registry.register("a/b c", "\"int\"").unwrap(), 1);
    let asked = server.asked();
    assert!(
        asked[0].starts_with("POST /subjects/a%2Fb%20c/versions as Basic a2V5OnNlY3JldA== {"),
        "{asked:?}"
    );
}

#[test]
fn an_unknown_id_is_asked_for_again_and_says_so() {
    let server = Server::start([complaint(404, 40403), schema(FIRST)]);
    let orders = orders(&server);
    let error = orders.learn(9).unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (CodecErrorKind::UnknownSchema, false));
    assert!(error.to_string().contains("no schema of id 9"), "{error}");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "in its own words (40403)");
    orders.learn(9).unwrap();
    orders.learn(9).unwrap();
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_registry_that_is_down_or_in_trouble_is_transient() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::start([complaint(500, 50001), complaint(429, 429)]);
    let down = HttpRegistry::new(format!("http://{closed}"));
    let troubled = HttpRegistry::new(&server.url);
    for error in
        [down.schema(1).unwrap_err(), troubled.schema(1).unwrap_err(), troubled.schema(1).unwrap_err()]
    {
        assert!(error.is_transient(), "{error:?}");
    }
}

#[test]
fn a_registry_that_is_slow_is_given_up_in_time() {
    let server = Server::start([None, schema(FIRST)]);
    let slow = HttpRegistry::new(&server.url).timeout(Duration::from_millis(200));
    let start = std::time::Instant::now();
    assert!(slow.schema(1).unwrap_err().is_transient());
    assert!((200..4000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert_eq!(slow.schema(1).unwrap(), FIRST);
}

#[test]
fn refusals_are_told_apart() {
    let server = Server::start([
        complaint(409, 409),
        complaint(422, 42201),
        complaint(401, 40101),
        Some((200, "<html>".into())),
    ]);
    let registry = HttpRegistry::new(&server.url);
    use CodecErrorKind::{Incompatible, InvalidInput, Refused};
    for kind in [Incompatible, InvalidInput, Refused, Refused] {
        assert_eq!(registry.register("s", "\"int\"").unwrap_err().kind(), kind);
    }
}

#[test]
fn schemas_that_are_not_avro_or_in_pieces_are_refused() {
    let server = Server::start([
        Some((200, r#"{"schema":"syntax","schemaType":"PROTOBUF"}"#.into())),
        Some((200, r#"{"schema":"{}","references":[{"name":"a","subject":"b","version":1}]}"#.into())),
    ]);
    let registry = HttpRegistry::new(&server.url);
    for says in ["the schema of id 1 is PROTOBUF and not Avro", "the schema of id 1 refers to others"] {
        let error = registry.schema(1).unwrap_err();
        assert!(
            error.kind() == CodecErrorKind::UnknownSchema && error.to_string().starts_with(says),
            "{error}"
        );
    }
}

#[test]
fn what_is_not_framed_or_cannot_be_read_is_refused() {
    let registry = MemoryRegistry::default();
    let orders = ConfluentAvro::<Order, _>::new("orders-value", SECOND, registry.clone()).unwrap();
    let whole = orders.encode(&order(3)).unwrap();
    for end in 0..whole.len() {
        assert_eq!(
            orders.decode(&whole.slice(..end)).unwrap_err().kind(),
            CodecErrorKind::Malformed,
            "{end}"
        );
    }
    assert_eq!(orders.decode(&"{\"item\":1}".into()).unwrap_err().kind(), CodecErrorKind::Malformed);
    let other = registry.register("other", "\"int\"").unwrap();
    let payload = [&[0][..], &other.to_be_bytes(), &[2]].concat();
    assert_eq!(orders.decode(&payload.into()).unwrap_err().kind(), CodecErrorKind::Incompatible);
    assert_eq!(
        orders.decode(&vec![0, 0, 0, 0, 99, 2].into()).unwrap_err().kind(),
        CodecErrorKind::UnknownSchema
    );
}
