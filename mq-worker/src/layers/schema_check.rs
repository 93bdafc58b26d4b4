//! What does not fit its schema does not reach the handler.

use std::fmt;

use mq_codec::{CodecError, Codecs, Decode};
use mq_core::Message;

use crate::context::Context;
use crate::failure::Failure;
use crate::layer::{Layer, Next};
use crate::outcome::Outcome;

type Check<T> = Box<dyn Fn(&Message) -> Result<T, CodecError> + Send + Sync>;

/// Reads the payload as a `T` before the layers inside and the handler run. What cannot be read is a dead letter with the reason; if a
/// schema registry cannot be asked, the message is tried again. The value is left for [`Extension<T>`](crate::Extension).
///
/// ```
/// use mq_codec::Json;
/// use mq_worker::{Extension, Handler, layers::SchemaCheck};
///
/// async fn add(Extension(numbers): Extension<Vec<u32>>) {}
/// let route = add.layer(SchemaCheck::<Vec<u32>>::new(Json::new()));
/// ```
pub struct SchemaCheck<T>(Check<T>);

impl<T> SchemaCheck<T> {
    /// Reads with one codec.
    #[must_use]
    pub fn new(codec: impl Decode<T> + Send + Sync + 'static) -> Self {
        Self(Box::new(move |message| codec.read(message)))
    }

    /// Reads with the codec that the content type asks for.
    #[must_use]
    pub fn by_content_type(codecs: Codecs<T>) -> Self
    where
        T: 'static,
    {
        Self(Box::new(move |message| codecs.read(message)))
    }
}

impl<T> fmt::Debug for SchemaCheck<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SchemaCheck").field(&std::any::type_name::<T>()).finish()
    }
}

impl<T: Send + Sync + 'static> Layer for SchemaCheck<T> {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        match (self.0)(context.message()) {
            Ok(value) => context.extensions.insert(value),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => return Err(Failure::reject(error)),
        }
        next.run(context).await
    }
}
