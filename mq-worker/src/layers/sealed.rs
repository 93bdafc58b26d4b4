//! Payloads that only who has the key can read.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chacha20poly1305::aead::{Aead as _, Generate as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use mq_core::Message;

use crate::context::Context;
use crate::failure::Failure;
use crate::layer::{Layer, Next};
use crate::outcome::Outcome;

/// The header that says how a payload is encrypted, and by which key.
pub const ENCRYPTION: &str = "content-encryption";
const NONCE: usize = 24;

/// Why a payload could not be encrypted or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CipherError(String);

impl CipherError {
    /// Says why.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for CipherError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CipherError {}

/// Encrypts and reads payloads: [`AeadCipher`], or one of yours around a key service.
pub trait Cipher: Send + Sync + 'static {
    /// Encrypts a message's payload and says so in a header.
    ///
    /// # Errors
    /// It could not; the message must not be sent as it is.
    fn seal(&self, message: Message) -> Result<Message, CipherError>;

    /// Reads a payload that [`seal`](Self::seal) encrypted; the message is as it was before.
    ///
    /// # Errors
    /// It is not encrypted, or not by a key that is known, or it was tampered with.
    fn open(&self, message: Message) -> Result<Message, CipherError>;
}

/// Encrypts with XChaCha20-Poly1305: a random nonce of 24 bytes before the ciphertext, the message's id bound to it.
///
/// The first key encrypts, all of them read: to change keys, put the new one first and keep the old one as long as
/// messages may be encrypted with it.
#[derive(Clone)]
pub struct AeadCipher(Arc<Vec<(String, XChaCha20Poly1305)>>);

impl fmt::Debug for AeadCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_tuple("AeadCipher").field(&names).finish()
    }
}

impl AeadCipher {
    /// Makes a cipher of a named key of 32 bytes.
    #[must_use]
    pub fn new(name: impl Into<String>, key: &[u8; 32]) -> Self {
        Self(Arc::new(vec![(name.into(), XChaCha20Poly1305::new(key.into()))]))
    }

    /// Also reads what an older key encrypted.
    #[must_use]
    pub fn and(mut self, name: impl Into<String>, key: &[u8; 32]) -> Self {
        Arc::make_mut(&mut self.0).push((name.into(), XChaCha20Poly1305::new(key.into())));
        self
    }
}

fn bound(message: &Message) -> Vec<u8> {
    message.id.to_string().into_bytes()
}

impl Cipher for AeadCipher {
    fn seal(&self, mut message: Message) -> Result<Message, CipherError> {
        let (name, cipher) = &self.0[0];
        let nonce = XNonce::generate();
        let payload = Payload { msg: &message.payload, aad: &bound(&message) };
        let sealed = cipher.encrypt(&nonce, payload).map_err(|_| CipherError::new("too large to encrypt"))?;
        message.payload = [&nonce[..], &sealed].concat().into();
        message.headers.push(ENCRYPTION, format!("xchacha20poly1305; key={name}"));
        Ok(message)
    }

    fn open(&self, mut message: Message) -> Result<Message, CipherError> {
        let how = message.headers.get_str(ENCRYPTION);
        let how = how.ok_or_else(|| CipherError::new("the payload is not encrypted"))?;
        let unknown = || CipherError::new(format!("encrypted by {how:?}, of which no key is known"));
        let name = how.strip_prefix("xchacha20poly1305; key=").ok_or_else(unknown)?;
        let (_, cipher) = self.0.iter().find(|(known, _)| known == name).ok_or_else(unknown)?;
        let wrong = || CipherError::new("the payload was changed, or its id, or encrypted by another key");
        let (nonce, sealed) = message.payload.split_at_checked(NONCE).ok_or_else(wrong)?;
        let nonce = XNonce::try_from(nonce).map_err(|_| wrong())?;
        let payload = Payload { msg: sealed, aad: &bound(&message) };
        let open = cipher.decrypt(&nonce, payload).map_err(|_| wrong())?;
        message.payload = Bytes::from(open);
        message.headers.remove(ENCRYPTION);
        Ok(message)
    }
}

/// Reads encrypted payloads; what cannot be read, or is not encrypted, is a dead letter with the reason.
///
/// ```
/// use mq_worker::layers::{AeadCipher, Cipher as _, Decrypt};
/// use mq_worker::{Handler, Text};
/// # use mq_core::Message;
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// async fn charge(Text(order): Text) {}
/// let cipher = AeadCipher::new("2026", &[7; 32]);
/// let sent = cipher.seal(Message::new("one book"))?;
/// let route = charge.layer(Decrypt::new(cipher));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Decrypt<C>(C);

impl<C: Cipher> Decrypt<C> {
    /// Reads with a cipher.
    #[must_use]
    pub const fn new(cipher: C) -> Self {
        Self(cipher)
    }
}

impl<C: Cipher> Layer for Decrypt<C> {
    async fn call(&self, context: &mut Context<'_>, next: Next<'_>) -> Outcome {
        let message = self.0.open(context.message().clone()).map_err(Failure::reject)?;
        context.replace(message);
        next.run(context).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_read_and_nothing_else() {
        let (old, new) = (AeadCipher::new("old", &[1; 32]), AeadCipher::new("new", &[2; 32]));
        let message = Message::new("secret").header("a", "b").key("k");
        let sealed = old.seal(message.clone()).unwrap();
        assert!(!sealed.payload.windows(6).any(|part| part == b"secret"));
        assert_ne!(sealed.payload, old.seal(message.clone()).unwrap().payload, "a nonce of its own");
        let opened = new.clone().and("old", &[1; 32]).open(sealed.clone()).unwrap();
        assert_eq!(opened, message);

        let error = |message: Message| old.open(message).unwrap_err().to_string();
        assert!(new.open(sealed.clone()).unwrap_err().to_string().contains("no key is known"));
        assert!(error(message).contains("not encrypted"));
        let mut changed = sealed.clone();
        let mut bytes = changed.payload.to_vec();
        bytes[30] ^= 1;
        changed.payload = bytes.into();
        assert!(error(changed).contains("was changed"));
        assert!(error(sealed.clone().id("another")).contains("was changed"));
        let mut short = sealed;
        short.payload = short.payload.slice(..10);
        assert!(error(short).contains("was changed"));
        assert_eq!(format!("{old:?}"), r#"AeadCipher(["old"])"#);
    }
}
