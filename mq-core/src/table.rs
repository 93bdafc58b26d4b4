//! Values by label, bounded: what is counted by topic or group.

use std::sync::OnceLock;

/// The most labels of a client's counts; what comes after them is counted together.
pub const LABELS: usize = 200;

/// A bounded map that only grows. Looking a key up takes no lock, reading a value is an index.
///
/// Keys beyond the limit share one value, so that names made up at run time cost neither memory nor time series.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use mq_core::Table;
///
/// let table = Table::<String, AtomicU64>::new(1);
/// for topic in ["orders", "parcels", "letters", "orders"] {
///     let label = table.label(|key| key == topic, || topic.to_owned());
///     table.get(label).fetch_add(1, Ordering::Relaxed);
/// }
/// let count = |(_, key, count): (_, Option<&String>, &AtomicU64)| (key.cloned(), count.load(Ordering::Relaxed));
/// let counts: Vec<_> = table.iter().map(count).collect();
/// assert_eq!(counts, [(Some("orders".to_owned()), 2), (None, 2)]);
/// ```
#[derive(Debug)]
pub struct Table<K, V> {
    slots: Box<[Slot<K, V>]>,
    rest: V,
}

type Slot<K, V> = OnceLock<Box<(K, V)>>;

/// Names a key of a [`Table`]; the default one is the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label(usize);

impl<K, V: Default> Table<K, V> {
    /// Makes an empty table for `limit` keys.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { slots: (0..limit).map(|_| OnceLock::new()).collect(), rest: V::default() }
    }

    /// Returns the label of the key that `is` recognises; if there is none yet, of the one that `make` makes.
    pub fn label(&self, is: impl Fn(&K) -> bool, make: impl Fn() -> K) -> Label {
        let mine =
            |slot: &OnceLock<Box<(K, V)>>| is(&slot.get_or_init(|| Box::new((make(), V::default()))).0);
        Label(self.slots.iter().position(mine).unwrap_or(self.slots.len()))
    }

    /// Returns the value of a label.
    #[must_use]
    pub fn get(&self, label: Label) -> &V {
        self.slots.get(label.0).and_then(OnceLock::get).map_or(&self.rest, |entry| &entry.1)
    }

    /// Returns labels, keys and values, oldest first; last, without a key, what the rest shares, if the table is full.
    pub fn iter(&self) -> impl Iterator<Item = (Label, Option<&K>, &V)> {
        let full = self.slots.iter().all(|slot| slot.get().is_some());
        let known = self.slots.iter().map_while(OnceLock::get).enumerate();
        let known = known.map(|(index, entry)| (Label(index), Some(&entry.0), &entry.1));
        known.chain(full.then_some((Label(self.slots.len()), None, &self.rest)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn threads_agree_on_labels_and_nothing_is_counted_twice() {
        let table = Table::<usize, AtomicUsize>::new(8);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let table = &table;
                scope.spawn(move || {
                    for turn in 0..1000 {
                        let key = (turn + thread) % 10;
                        let label = table.label(|known| *known == key, || key);
                        table.get(label).fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let mut keys: Vec<usize> = table.iter().filter_map(|(_, key, _)| key.copied()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 8);
        let count = |value: &AtomicUsize| value.load(Ordering::Relaxed);
        assert!(table.iter().all(|(_, key, value)| count(value) == if key.is_some() { 400 } else { 800 }));
    }
}
