//! Who asked, told to the service: `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` (RFC 7239). What a client says of
//! itself is believed only from trusted proxies.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::header::{Entry, FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use super::headers::letters;

/// `X-Forwarded-For`
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is known of the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// None for a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether its forwarding headers are believed.
    pub trusted: bool,
    /// The address as `X-Forwarded-For` writes it; made once for each connection.
    text: HeaderValue,
    /// The address as `Forwarded` writes it.
    node: Box<str>,
    scheme: &'static str,
    /// Who it is by its certificate, as headers. Shared by its requests.
    certificate: Box<[(HeaderName, HeaderValue)]>,
    /// What `Forwarded` said last, and of which host: the requests of a connection rarely differ in that.
    last: RefCell<Option<(Option<HeaderValue>, HeaderValue)>>,
}

impl Peer {
    /// A peer at `address`.
    #[must_use]
    pub fn new(address: Option<IpAddr>, trusted: bool) -> Self {
        // An IPv4 address on an IPv6 socket is an IPv4 address.
        let address = address.map(|address| address.to_canonical());
        let text = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        // A text of visible ASCII: only an address can be here.
        let value = HeaderValue::try_from(&text).unwrap_or(HeaderValue::from_static("unknown"));
        let node = match address {
            Some(IpAddr::V6(v6)) => format!("\"[{v6}]\"").into(),
            Some(IpAddr::V4(_)) | None => text.as_str().into(),
        };
        Self {
            address,
            trusted,
            text: value,
            node,
            scheme: "http",
            certificate: Box::default(),
            last: RefCell::default(),
        }
    }

    /// The same over TLS, with the headers that say who it is by its certificate.
    #[must_use]
    pub fn over_tls(self, certificate: Box<[(HeaderName, HeaderValue)]>) -> Self {
        Self {
            scheme: "https",
            certificate,
            ..self
        }
    }

    /// How it speaks to us: `http` or `https`.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Who it is by its certificate.
    #[must_use]
    pub fn certificate(&self) -> &[(HeaderName, HeaderValue)] {
        &self.certificate
    }

    /// This peer as an element of `Forwarded` (RFC 7239 section 4).
    fn element(&self, host: Option<&HeaderValue>) -> Option<HeaderValue> {
        let mut last = self.last.borrow_mut();
        if let Some((of_host, element)) = &*last
            && of_host.as_ref() == host
        {
            return Some(element.clone());
        }
        let mut text = format!("for={}", self.node);
        if let Some(host) = host.and_then(|host| host.to_str().ok()) {
            // A host has neither quotes nor backslashes: it was parsed.
            let _ = write!(text, ";host=\"{host}\"");
        }
        let _ = write!(text, ";proto={}", self.scheme);
        let element = HeaderValue::try_from(text).ok()?;
        *last = Some((host.cloned(), element.clone()));
        Some(element)
    }
}

/// Whether `address` is in one of these networks.
#[must_use]
pub fn is_trusted(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// The client's address, as far as it is proven: the peer, or where that is trusted, the last of `X-Forwarded-For` that is
/// no trusted proxy itself. What stands before it, the client may have written. None if a trusted proxy names nobody, or
/// something that is no address.
#[must_use]
pub fn client(peer: &Peer, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    if !peer.trusted {
        return peer.address;
    }
    for line in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for element in line.to_str().ok()?.rsplit(',') {
            let address = node(element.trim())?;
            if !is_trusted(trusted, address) {
                return Some(address);
            }
        }
    }
    None
}

/// An address of `X-Forwarded-For`. Some proxies add the port.
fn node(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse().ok();
    address.or_else(|| {
        text.parse::<SocketAddr>()
            .ok()
            .map(|with_port| with_port.ip())
    })
}

/// Headers that tell a service who asked, how, and for what. Frameworks believe them, so strangers must not write them.
/// Only letters and digits, as in [`letters`].
const TOLD_BY_PROXIES: [&str; 38] = [
    // From where.
    "forwarded",
    "forwardedfor",
    "xrealip",
    "xclientip",
    "clientip",
    "xclusterclientip",
    "trueclientip",
    "cfconnectingip",
    "cfconnectingipv6",
    "fastlyclientip",
    "flyclientip",
    "xazureclientip",
    "xenvoyexternaladdress",
    "xoriginatingip",
    "xremoteip",
    "xremoteaddr",
    "xoriginalforwardedfor",
    "proxyclientip",
    "wlproxyclientip",
    // How.
    "xscheme",
    "xurlscheme",
    "frontendhttps",
    // For what: another target, host or method than the one that was decided on.
    "xoriginalurl",
    "xoriginaluri",
    "xoriginalpath",
    "xoriginalhost",
    "xoriginalmethod",
    "xrewriteurl",
    "xenvoyoriginalpath",
    "xhost",
    "xhttpmethod",
    "xhttpmethodoverride",
    "xmethodoverride",
    "xmiddlewaresubrequest",
    // By whom: certificates that nobody has seen.
    "xarrclientcert",
    "xclientdn",
    "xclientverify",
    // No proxy's word either, but CGI hands it on as HTTP_PROXY (httpoxy, CVE-2016-5385).
    "proxy",
];

/// `X-Forwarded-For`, `-Proto`, `-User`, `-Client-Cert`, `-Uri` and whatever comes; `Client-Cert` and `Client-Cert-Chain`
/// (RFC 9440) and what others call the same.
const TOLD_PREFIXES: [&str; 6] = [
    "xforwarded",
    "clientcert",
    "xclientcert",
    "sslclient",
    "xssl",
    "xamznmtls",
];

/// What a trusted proxy may say: from where and how. Everything else a proxy may just as well have passed on from its own
/// client: load balancers set the first three and look at no others.
const KEPT_FROM_TRUSTED: [&str; 18] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-scheme",
    "x-forwarded-ssl",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "x-scheme",
    "front-end-https",
];

/// Whether `name` is one that only a proxy may write, in any spelling.
#[must_use]
pub fn is_told_by_proxies(name: &HeaderName) -> bool {
    // Longer than all of them.
    const LETTERS_MAX: usize = 32;
    // Few letters begin all of them: most header lines end here.
    if !matches!(
        letters(name).next(),
        Some(b'x' | b'f' | b't' | b'c' | b'p' | b's' | b'w')
    ) {
        return false;
    }
    let mut folded = [0; LETTERS_MAX];
    let mut length = 0;
    for (to, from) in folded.iter_mut().zip(letters(name)) {
        *to = from;
        length += 1;
    }
    let folded = &folded[..length];
    TOLD_PREFIXES
        .iter()
        .any(|prefix| folded.starts_with(prefix.as_bytes()))
        || TOLD_BY_PROXIES
            .iter()
            .any(|other| folded == other.as_bytes())
}

/// Whether `name` is kept when a trusted proxy sends it: in its exact spelling, no alias.
#[must_use]
pub fn is_kept_from_trusted(name: &HeaderName) -> bool {
    KEPT_FROM_TRUSTED.contains(&name.as_str())
}

/// Writes the forwarding headers. What an untrusted peer said must be gone already.
pub fn write(headers: &mut HeaderMap, peer: &Peer, host: Option<&HeaderValue>) {
    if let Some(element) = peer.element(host) {
        append(headers, FORWARDED, element);
    }
    append(headers, X_FORWARDED_FOR, peer.text.clone());
    headers
        .entry(X_FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static(peer.scheme));
    if let Some(host) = host {
        headers
            .entry(X_FORWARDED_HOST)
            .or_insert_with(|| host.clone());
    }
}

/// Adds to the end of a list, in one line: many services read only the first.
fn append(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(none) => drop(none.insert(value)),
        Entry::Occupied(mut lines) => {
            let mut list = Vec::new();
            for line in lines.iter() {
                list.extend_from_slice(line.as_bytes());
                list.extend_from_slice(b", ");
            }
            list.extend_from_slice(value.as_bytes());
            if let Ok(list) = HeaderValue::from_bytes(&list) {
                drop(lines.insert_mult(list));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_told_who_asked() {
        let mut headers = HeaderMap::new();
        let peer = Peer::new(Some("::ffff:192.0.2.1".parse().unwrap()), false);
        write(
            &mut headers,
            &peer,
            Some(&HeaderValue::from_static("shop:8080")),
        );
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.1");
        assert_eq!(headers[X_FORWARDED_PROTO], "http");
        assert_eq!(headers[X_FORWARDED_HOST], "shop:8080");
        assert_eq!(
            headers[FORWARDED],
            "for=192.0.2.1;host=\"shop:8080\";proto=http"
        );
    }

    #[test]
    fn each_request_of_a_connection_is_told_of_by_its_own_host() {
        let peer = Peer::new(Some("192.0.2.1".parse().unwrap()), false);
        let (shop, bank) = (
            HeaderValue::from_static("shop"),
            HeaderValue::from_static("bank"),
        );
        let check = |peer: &Peer, host: Option<&HeaderValue>, expected: &str| {
            let mut headers = HeaderMap::new();
            write(&mut headers, peer, host);
            assert_eq!(headers[FORWARDED], expected);
        };
        for _ in 0..2 {
            check(&peer, Some(&shop), "for=192.0.2.1;host=\"shop\";proto=http");
        }
        check(&peer, Some(&bank), "for=192.0.2.1;host=\"bank\";proto=http");
        check(&peer, None, "for=192.0.2.1;proto=http");
        let peer = peer.over_tls(Box::default());
        check(
            &peer,
            Some(&shop),
            "for=192.0.2.1;host=\"shop\";proto=https",
        );
    }

    #[test]
    fn a_chain_grows_by_one() {
        let mut headers = HeaderMap::new();
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("198.51.100.7"));
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("203.0.113.9"));
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        headers.insert(FORWARDED, HeaderValue::from_static("for=198.51.100.7"));
        let peer = Peer::new(Some("2001:db8::1".parse().unwrap()), true);
        write(&mut headers, &peer, None);
        assert_eq!(
            headers[X_FORWARDED_FOR],
            "198.51.100.7, 203.0.113.9, 2001:db8::1"
        );
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
        assert_eq!(
            headers[FORWARDED],
            "for=198.51.100.7, for=\"[2001:db8::1]\";proto=http"
        );
    }

    #[track_caller]
    fn check_client(peer: &str, lines: &[&'static str], expected: Option<&str>) {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let address: IpAddr = peer.parse().unwrap();
        let peer = Peer::new(Some(address), is_trusted(&trusted, address));
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
        }
        let expected = expected.map(|text| text.parse().unwrap());
        assert_eq!(client(&peer, &headers, &trusted), expected, "{lines:?}");
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
        check_client("192.0.2.1", &["198.51.100.7"], Some("192.0.2.1"));
        check_client("::ffff:10.0.0.1", &["198.51.100.7"], Some("198.51.100.7"));
        for lines in [
            &["203.0.113.9, 198.51.100.7"][..],
            &["203.0.113.9", "198.51.100.7"],
            &["203.0.113.9", "198.51.100.7, 10.9.9.9", "fd00::1,10.0.0.2"],
            &["forged, 198.51.100.7"],
            &["198.51.100.7:4711"],
        ] {
            check_client("10.0.0.1", lines, Some("198.51.100.7"));
        }
        for line in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:4711"] {
            check_client("10.0.0.1", &[line], Some("2001:db8::1"));
        }
    }

    #[test]
    fn nobody_is_named_where_a_trusted_proxy_names_nobody() {
        for lines in [
            &[][..],
            &["10.0.0.2"],
            &["unknown"],
            &["198.51.100.7, unknown"],
            &["198.51.100.7, "],
        ] {
            check_client("10.0.0.1", lines, None);
        }
        let socket = Peer::new(None, true);
        assert_eq!(client(&socket, &HeaderMap::new(), &[]), None);
    }

    #[test]
    fn every_spelling_is_known() {
        let known =
            |name: &str| is_told_by_proxies(&HeaderName::from_bytes(name.as_bytes()).unwrap());
        for name in [
            "X-Forwarded-For",
            "x_forwarded_for",
            "X.Forwarded.Prefix",
            "Forwarded",
            "X-Original-URL",
            "x_http_method_override",
            "True-Client-IP",
            "X-Middleware-Subrequest",
            "CF-Connecting-IP",
            "Client_IP",
            "WL-Proxy-Client-IP",
            "Proxy",
            "X-Forwarded-Client-Cert",
            "x_ssl_client_verify",
            "Client-Cert-Chain",
            "SSL_CLIENT_S_DN",
        ] {
            assert!(known(name), "{name}");
        }
        for name in [
            "x-forward",
            "x-request-id",
            "from",
            "te",
            "traceparent",
            "x-user-id",
            "client-id",
            "cookie",
            &format!("proxy-{}", "x".repeat(40)),
        ] {
            assert!(!known(name), "{name}");
        }
    }

    #[test]
    fn what_is_kept_from_a_trusted_proxy_is_what_others_may_not_say() {
        for name in KEPT_FROM_TRUSTED {
            let name = HeaderName::from_static(name);
            assert!(is_told_by_proxies(&name) && is_kept_from_trusted(&name));
        }
        for name in ["x_forwarded_for", "xforwardedfor", "x-forwarded-user"] {
            assert!(!is_kept_from_trusted(&HeaderName::from_static(name)));
        }
    }
}
