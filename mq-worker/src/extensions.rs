//! Values by their type.

use std::any::{Any, TypeId, type_name};
use std::fmt;

type Value = Box<dyn Any + Send + Sync>;

/// Holds at most one value of each type. An empty one allocates nothing.
#[derive(Default)]
pub struct Extensions(Vec<(TypeId, &'static str, Value)>);

impl Extensions {
    /// Puts a value in, in the place of the one of its type, if there is one.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        let id = TypeId::of::<T>();
        self.0.retain(|(known, ..)| *known != id);
        self.0.push((id, type_name::<T>(), Box::new(value)));
    }

    /// Returns the value of a type.
    #[must_use]
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        let id = TypeId::of::<T>();
        self.0.iter().find(|(known, ..)| *known == id).and_then(|(.., value)| value.downcast_ref())
    }
}

impl fmt::Debug for Extensions {
    /// The types; values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_of_each_type() {
        let mut extensions = Extensions::default();
        assert_eq!(extensions.get::<u8>(), None);
        extensions.insert(1_u8);
        extensions.insert("text");
        extensions.insert(2_u8);
        assert_eq!((extensions.get(), extensions.get()), (Some(&2_u8), Some(&"text")));
        assert_eq!(format!("{extensions:?}"), r#"["&str", "u8"]"#);
    }
}
