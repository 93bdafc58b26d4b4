//! Headers of a message: a list, or the block that a driver read them into.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use bytestring::ByteString;

type Pair = (ByteString, Bytes);

/// Headers in order: names may repeat, values are bytes. An empty list allocates nothing, and
/// headers that a driver packed into a block allocate nothing until they are asked for.
#[derive(Clone)]
pub struct Headers(Kept);

#[derive(Clone)]
enum Kept {
    List(Vec<Pair>),
    Packed(Packed),
}

/// For each header the lengths of name and value, four bytes each, then both.
#[derive(Clone)]
struct Packed {
    block: Bytes,
    count: u32,
    list: OnceLock<Box<[Pair]>>,
}

/// Bytes of the two lengths.
const LENGTHS: usize = 8;

impl Packed {
    fn parts(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.block[..];
        std::iter::from_fn(move || {
            let (name, after) = rest.split_first_chunk::<4>()?;
            let (value, after) = after.split_first_chunk::<4>()?;
            let (name, after) = after.split_at_checked(u32::from_ne_bytes(*name) as usize)?;
            let (value, after) = after.split_at_checked(u32::from_ne_bytes(*value) as usize)?;
            rest = after;
            Some((name, value))
        })
    }

    fn list(&self) -> &[Pair] {
        self.list.get_or_init(|| {
            let pair = |(name, value): (&[u8], &[u8])| {
                let name = ByteString::try_from(self.block.slice_ref(name)).unwrap_or_default();
                (name, self.block.slice_ref(value))
            };
            self.parts().map(pair).collect()
        })
    }
}

impl Headers {
    /// Makes an empty list with room for `capacity` headers.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Kept::List(Vec::with_capacity(capacity)))
    }

    /// Appends a header to a block in the making, for [`packed`](Self::packed).
    pub fn pack(name: &str, value: &[u8], mut append: impl FnMut(&[u8])) {
        for part in [name.as_bytes(), value] {
            append(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_ne_bytes());
        }
        append(name.as_bytes());
        append(value);
    }

    /// Takes headers that were appended to a block with [`pack`](Self::pack), `count` of them.
    #[must_use]
    pub fn packed(block: Bytes, count: u32) -> Self {
        match count {
            0 => Self::default(),
            _ => Self(Kept::Packed(Packed { block, count, list: OnceLock::new() })),
        }
    }

    fn list(&self) -> &[Pair] {
        match &self.0 {
            Kept::List(list) => list,
            Kept::Packed(packed) => packed.list(),
        }
    }

    fn list_mut(&mut self) -> &mut Vec<Pair> {
        if let Kept::Packed(packed) = &self.0 {
            self.0 = Kept::List(packed.list().to_vec());
        }
        match &mut self.0 {
            Kept::List(list) => list,
            Kept::Packed(_) => unreachable!("it was made a list"),
        }
    }

    /// Returns the first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.list().iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Returns the first value of `name` if it is UTF-8.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<&str> {
        let value = match &self.0 {
            Kept::List(_) => self.get(name).map(|value| &value[..]),
            Kept::Packed(packed) => {
                packed.parts().find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
            }
        };
        value.and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Adds a header behind the others.
    pub fn push(&mut self, name: impl Into<ByteString>, value: impl Into<Bytes>) {
        self.list_mut().push((name.into(), value.into()));
    }

    /// Removes every header of `name`.
    pub fn remove(&mut self, name: &str) {
        self.list_mut().retain(|(known, _)| known != name);
    }

    /// Returns the headers in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ByteString, &Bytes)> {
        self.list().iter().map(|(name, value)| (name, value))
    }

    /// Returns how many headers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Kept::List(list) => list.len(),
            Kept::Packed(packed) => packed.count as usize,
        }
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of all names and values.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.0 {
            Kept::List(list) => list.iter().map(|(name, value)| name.len() + value.len()).sum(),
            Kept::Packed(packed) => packed.block.len().saturating_sub(packed.count as usize * LENGTHS),
        }
    }
}

impl Default for Headers {
    fn default() -> Self {
        Self(Kept::List(Vec::new()))
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.list() == other.list()
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

impl<N: Into<ByteString>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(headers: T) -> Self {
        let pairs = headers.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(Kept::List(pairs.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(headers: &[(&str, &[u8])]) -> Headers {
        let mut block = Vec::new();
        for (name, value) in headers {
            Headers::pack(name, value, |part| block.extend_from_slice(part));
        }
        Headers::packed(block.into(), headers.len() as u32)
    }

    #[test]
    fn headers_keep_order_and_repeats() {
        let headers: Headers = [("a", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        assert_eq!(headers.get_str("a"), Some("1"));
        assert_eq!(headers.iter().map(|(name, _)| name.as_ref()).collect::<Vec<&str>>(), ["a", "b", "a"]);
    }

    #[test]
    fn packed_headers_are_as_listed_ones() {
        let pairs: [(&str, &[u8]); 4] = [("a", b"1"), ("", b""), ("a", b"\xff"), ("long", &[7; 300])];
        let listed: Headers =
            pairs.iter().map(|(name, value)| (*name, Bytes::copy_from_slice(value))).collect();
        let headers = packed(&pairs);
        assert_eq!((headers.len(), headers.size()), (listed.len(), listed.size()));
        assert_eq!((headers.get_str("a"), headers.get_str("b")), (Some("1"), None));
        assert_eq!((&headers, headers.get("long")), (&listed, listed.get("long")));
        let (mut one, mut other) = (headers.clone(), listed);
        one.remove("a");
        other.remove("a");
        one.push("b", "2");
        other.push("b", "2");
        assert_eq!(one, other);
        assert!(packed(&[]).is_empty() && packed(&[]) == Headers::default());
    }

    #[test]
    fn a_block_that_ends_early_has_fewer() {
        let whole = packed(&[("a", b"1"), ("b", b"2")]);
        let Kept::Packed(whole) = whole.0 else { unreachable!() };
        for end in 0..whole.block.len() {
            assert!(Headers::packed(whole.block.slice(..end), 2).iter().len() < 2);
        }
    }
}
