//! Ports for brokers that keep theirs over a restart.
//!
//! Uses the standard library alone, because `xtask` compiles this very file.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// Below the range that the system hands out to outgoing connections: while a broker is down,
/// nothing else may get its port, not even a client that keeps dialling it.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
const ATTEMPTS: usize = 100;

/// Finds a TCP port that nothing listens on now, between 20 000 and 31 999.
///
/// # Errors
///
/// When a hundred random ports were all taken.
pub fn free_port() -> io::Result<u16> {
    (0..ATTEMPTS)
        .map(|_| FIRST + random_below(COUNT))
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .ok_or_else(|| io::Error::other("no free TCP port between 20000 and 31999"))
}

fn random_below(limit: u16) -> u16 {
    let random = RandomState::new().build_hasher().finish() % u64::from(limit);
    u16::try_from(random).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_outside_the_range_of_outgoing_connections() {
        for _ in 0..50 {
            let port = free_port().unwrap();
            assert!((FIRST..FIRST + COUNT).contains(&port), "{port}");
        }
    }
}
