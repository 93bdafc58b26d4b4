//! Payloads are decompressed before the handler sees them.

use mq_codec::decompress;

use crate::context::Context;
use crate::failure::Failure;
use crate::layer::{Layer, Next};
use crate::outcome::Outcome;

/// Decompresses what the header `content-encoding` says is compressed, up to a limit; the header is removed. What is not what it says,
/// or longer, is a dead letter with the reason, as it was delivered.
///
/// ```
/// use mq_worker::{Handler, Text, layers::Decompress};
///
/// async fn import(Text(lines): Text) {}
/// let route = import.layer(Decompress::up_to(16 << 20));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Decompress {
    limit: usize,
}

impl Decompress {
    /// Allows payloads of so many bytes after decompression. While a message is decompressed no more than that is held of it.
    #[must_use]
    pub const fn up_to(bytes: usize) -> Self {
        Self { limit: bytes }
    }
}

impl Layer for Decompress {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        if context.message().headers.get_str(mq_codec::CONTENT_ENCODING).is_some() {
            let message = decompress(context.message().clone(), self.limit).map_err(Failure::reject)?;
            context.replace(message);
        }
        next.run(context).await
    }
}
