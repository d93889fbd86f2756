//! Law: an accepted host is its own one spelling, and the same host to the `http` crate.

use http::uri::Authority;

use super::Host;

/// Panics where the law is broken.
pub(crate) fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(host) = Host::parse(text) else {
        return;
    };
    assert_eq!(Host::parse(host.as_str()).as_ref(), Ok(&host));
    let authority: Authority = text.parse().expect("an authority");
    let theirs = authority.host().to_ascii_lowercase();
    assert_eq!(theirs.strip_suffix('.').unwrap_or(&theirs), host.as_str());
    assert!(!authority.as_str().contains('@'));
}
