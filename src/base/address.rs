//! Whom a limit counts as one: the address of a client, as far as nobody can choose it freely.

use std::net::IpAddr;

/// An IPv4 address, or the /64 that an IPv6 address is in: the smallest network that is given to anybody (RFC 6177
/// section 2), within which every host picks addresses as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressBlock(u64);

/// IPv4 addresses stand where no IPv6 network is: `0:ffff::/32` is a part of `::/8`, which is
/// reserved (RFC 4291 section 2.4).
const IPV4: u64 = 0xffff << 32;

impl AddressBlock {
    /// As a number that is this block's alone, and never [`u64::MAX`], which is in the multicast networks.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// IPv4 addresses as NAT64 writes them (RFC 6052 section 2.1): all of them are in one /64.
const NAT64: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];

impl From<IpAddr> for AddressBlock {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) if v6.octets().starts_with(&NAT64) => {
                let [.., high, low] = v6.segments();
                IPV4 | u64::from(high) << 16 | u64::from(low)
            }
            IpAddr::V4(v4) => IPV4 | u64::from(v4.to_bits()),
            IpAddr::V6(v6) => u64::from_be_bytes(
                *v6.octets()
                    .first_chunk()
                    .expect("16 octets are more than 8"),
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(one: &str, other: &str, same: bool) {
        let block = |text: &str| AddressBlock::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(block(one) == block(other), same, "{one} and {other}");
    }

    #[test]
    fn an_ipv6_network_counts_as_one_and_ipv4_addresses_each() {
        check("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", true);
        check("2001:db8:0:1::1", "2001:db8:0:2::1", false);
        check("192.0.2.1", "192.0.2.2", false);
        check("192.0.2.1", "::ffff:192.0.2.1", true);
        check("192.0.2.1", "64:ff9b::192.0.2.1", true);
        check("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", false);
        check("192.0.2.1", "64:ff9b:1::192.0.2.1", false);
        check("192.0.2.1", "::192.0.2.1", false);
        check("127.0.0.1", "::1", false);
        check("0.0.0.0", "::", false);
    }
}
