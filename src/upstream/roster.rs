//! The servers of an upstream at one time. A name has as many as it has addresses, and the control plane alone resolves it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::endpoint::Endpoint;
use super::options::Server;

/// Most addresses of one name. A DNS answer over UDP has room for some 80 of IPv4, and a larger service is better reached by
/// the one address of its Kubernetes Service.
const ADDRESSES_MAX: usize = 64;

/// The servers, in the order of the configuration. Swapped whole.
#[derive(Debug)]
pub(super) struct Roster(pub(super) Box<[Arc<Endpoint>]>);

impl Roster {
    /// Those that are known without asking anybody.
    pub(super) fn new(servers: &[Server]) -> Self {
        let all = servers.iter().enumerate();
        let known = all.filter(|(_, server)| server.name().is_none());
        let endpoints = known.map(|(at, server)| Endpoint::new(at, server.clone(), None));
        Self(endpoints.map(Arc::new).collect())
    }

    /// The same with other addresses of the server that is the `at`th of `servers`. Whoever was there before stays who it is;
    /// None if nobody came or went.
    pub(super) fn with(&self, servers: &[Server], at: usize, addresses: &[IpAddr]) -> Option<Self> {
        let (_, port) = servers[at].name()?;
        let mut addresses: Vec<_> = addresses
            .iter()
            .map(|address| SocketAddr::new(*address, port))
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        let of = |position: usize| {
            let all = self.0.iter();
            all.filter(move |known| known.position == position)
        };
        let before = of(at).filter_map(|known| known.address);
        if before.eq(addresses.iter().copied()) {
            return None;
        }
        let mut endpoints: Vec<Arc<Endpoint>> = vec![];
        for (position, server) in servers.iter().enumerate() {
            if position != at {
                endpoints.extend(of(position).cloned());
                continue;
            }
            for address in &addresses {
                let known = of(at).find(|known| known.address == Some(*address));
                let fresh = || Arc::new(Endpoint::new(at, server.clone(), Some(*address)));
                endpoints.push(known.map_or_else(fresh, Arc::clone));
            }
        }
        Some(Self(endpoints.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str) -> Server {
        Server::Tcp {
            host: host.into(),
            port: 80,
        }
    }

    fn addresses(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|last| [10, 0, 0, *last].into()).collect()
    }

    fn names(roster: &Roster) -> Vec<String> {
        roster.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_address_of_a_name_is_a_server_and_stays_the_same_one() {
        let servers = [server("10.9.9.9"), server("a"), server("b")];
        let first = Roster::new(&servers);
        assert_eq!(names(&first), ["http://10.9.9.9:80"]);
        let second = first.with(&servers, 2, &addresses(&[7])).unwrap();
        let third = second.with(&servers, 1, &addresses(&[2, 1, 2])).unwrap();
        assert_eq!(
            names(&third),
            [
                "http://10.9.9.9:80",
                "http://a:80 (10.0.0.1)",
                "http://a:80 (10.0.0.2)",
                "http://b:80 (10.0.0.7)"
            ]
        );
        assert!(third.with(&servers, 1, &addresses(&[1, 2])).is_none());
        let fourth = third.with(&servers, 1, &addresses(&[2, 3])).unwrap();
        assert_eq!(fourth.0.len(), 4);
        for (before, after) in [(0, 0), (2, 1), (3, 3)] {
            assert!(Arc::ptr_eq(&third.0[before], &fourth.0[after]));
        }
        assert_eq!(fourth.with(&servers, 1, &[]).unwrap().0.len(), 2);
    }

    #[test]
    fn the_same_server_twice_is_two() {
        let servers = [
            server("a"),
            server("10.9.9.9"),
            server("10.9.9.9"),
            server("a"),
        ];
        let roster = Roster::new(&servers);
        let roster = roster.with(&servers, 0, &addresses(&[1])).unwrap();
        let roster = roster.with(&servers, 3, &addresses(&[1])).unwrap();
        assert_eq!(roster.0.len(), 4);
    }

    #[test]
    fn a_name_has_so_many_addresses_at_most() {
        let servers = [server("a")];
        let all: Vec<u8> = (0..=255).collect();
        let roster = Roster::new(&servers).with(&servers, 0, &addresses(&all));
        assert_eq!(roster.unwrap().0.len(), ADDRESSES_MAX);
    }
}
