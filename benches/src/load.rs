//! The messages, the same on both sides.

use bytes::Bytes;
use bytestring::ByteString;
use mq::Message;

/// Headers of every message, sorted by name.
pub(crate) const HEADERS: [(&str, &str); 2] = [("source", "checkout"), ("tenant", "customer-eu-1")];
/// Different payloads and keys, so that compression finds no more than it would in real ones.
const VARIETY: usize = 1024;
const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

/// Payloads and keys of one size, made before the clock runs.
#[derive(Debug)]
pub(crate) struct Load {
    payloads: Vec<Bytes>,
    keys: Vec<Bytes>,
}

impl Load {
    /// Makes payloads of `bytes` random letters, the same in every process.
    pub(crate) fn new(bytes: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(17);
        let letter = |random: &mut fastrand::Rng| LETTERS[random.usize(..LETTERS.len())];
        Self {
            payloads: (0..VARIETY).map(|_| (0..bytes).map(|_| letter(&mut random)).collect()).collect(),
            keys: (0..VARIETY).map(|n| format!("customer-{n:05}").into()).collect(),
        }
    }

    /// Returns the payload of message `n`.
    pub(crate) fn payload(&self, n: usize) -> &Bytes {
        &self.payloads[n % VARIETY]
    }

    /// Returns the key of message `n`.
    pub(crate) fn key(&self, n: usize) -> &Bytes {
        &self.keys[(n / 3) % VARIETY]
    }

    /// Makes message `n` as a user of `mq` who cares for speed does: nothing is copied.
    pub(crate) fn message(&self, n: usize) -> Message {
        let mut message = Message::new(self.payload(n).clone());
        message.key = Some(self.key(n).clone());
        message.headers = mq::Headers::with_capacity(HEADERS.len());
        for (name, value) in HEADERS {
            message.headers.push(ByteString::from_static(name), Bytes::from_static(value.as_bytes()));
        }
        message
    }
}

/// A handler's work: look at every part, so that none can be left out.
#[derive(Debug, Default)]
pub(crate) struct Handled {
    /// How many messages.
    pub(crate) count: usize,
    bytes: usize,
    headers: usize,
    keys: usize,
}

impl Handled {
    /// Handles one message.
    pub(crate) fn take(&mut self, id: bool, key: &[u8], payload: &[u8], headers: usize) {
        self.count += 1;
        self.bytes += payload.len();
        self.keys += usize::from(id && !key.is_empty());
        self.headers += headers;
        std::hint::black_box((payload.first(), key.first()));
    }

    /// Fails if a part of a message did not arrive.
    pub(crate) fn check(&self, bytes: usize) -> anyhow::Result<()> {
        let expected = (self.count * bytes, self.count, self.count * HEADERS.len());
        let found = (self.bytes, self.keys, self.headers);
        anyhow::ensure!(
            found == expected,
            "{} messages arrived with {found:?} payload bytes, ids and keys, headers; expected {expected:?}",
            self.count
        );
        Ok(())
    }
}
