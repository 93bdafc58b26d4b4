//! Validated names and the names derived from them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// The longest topic or group name, in bytes.
///
/// Derived names join a topic, a group and a suffix with [`SEPARATOR`]; the sum stays below
/// Kafka's limit of 249 and RabbitMQ's of 255.
pub const MAX_NAME: usize = 100;

/// Joins the parts of a derived name; no topic or group name may contain it.
pub const SEPARATOR: &str = "..";

fn validate(what: &str, name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_NAME {
        format!("is {} bytes long; the limit is {MAX_NAME}", name.len())
    } else if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || ".-_".contains(*c))) {
        format!("contains {bad:?}; allowed are letters, digits, '.', '_' and '-'")
    } else if name.contains(SEPARATOR) || name.starts_with('.') || name.ends_with('.') {
        "has a '.' at an end or two in a row; '..' is reserved for derived names".to_owned()
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(MAX_NAME).collect();
    Err(Error::new(ErrorKind::InvalidInput, format!("{what} name {shown:?} {problem}")))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates `name`.
            ///
            /// # Errors
            /// [`ErrorKind::InvalidInput`] says what is wrong and what is allowed.
            pub fn new(name: impl AsRef<str>) -> Result<Self> {
                validate($what, name.as_ref())?;
                Ok(Self(name.as_ref().into()))
            }

            /// Returns the name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;
            fn try_from(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(name: String) -> Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<&$name> for $name {
            type Error = Error;
            fn try_from(name: &$name) -> Result<Self> {
                Ok(name.clone())
            }
        }
    };
}

name! {
    /// A topic's name: 1–100 of `[A-Za-z0-9._-]`, no `..`, no `.` at either end.
    TopicName, "topic"
}
name! {
    /// A group's name, under the same rules as [`TopicName`].
    GroupName, "group"
}

/// Returns the name of a group's private inbox: `{topic}..{group}..inbox`.
#[must_use]
pub fn inbox(topic: &TopicName, group: &GroupName) -> String {
    format!("{topic}{SEPARATOR}{group}{SEPARATOR}inbox")
}

/// Returns the name of a group's dead letters: `{topic}..{group}..dead`.
#[must_use]
pub fn dead(topic: &TopicName, group: &GroupName) -> String {
    format!("{topic}{SEPARATOR}{group}{SEPARATOR}dead")
}

/// Returns whether `name` is one of this library's derived names.
#[must_use]
pub fn is_derived(name: &str) -> bool {
    name.contains(SEPARATOR)
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bad_names_say_what_is_allowed() {
        for (name, says) in [
            ("", "is empty"),
            ("a b", "contains ' '"),
            ("a..b", "reserved"),
            (".a", "at an end"),
            ("ä", "letters, digits"),
        ] {
            let error = TopicName::new(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(GroupName::new("x".repeat(MAX_NAME)).is_ok());
        assert!(GroupName::new("x".repeat(MAX_NAME + 1)).is_err());
    }

    proptest! {
        #[test]
        fn derived_names_never_collide(a in "[a-c._-]{1,4}", b in "[a-c._-]{1,4}", c in "[a-c._-]{1,4}", d in "[a-c._-]{1,4}") {
            if let (Ok(a), Ok(b), Ok(c), Ok(d)) = (TopicName::new(a), GroupName::new(b), TopicName::new(c), GroupName::new(d)) {
                prop_assert_eq!(inbox(&a, &b) == inbox(&c, &d), (&a, &b) == (&c, &d));
                prop_assert!(inbox(&a, &b).len() < 249 && dead(&a, &b) != inbox(&c, &d));
            }
        }
    }
}
