//! `issuers.headers`: which claims become which request headers. A header that means something to a hop, to the
//! message's framing or to the forwarding itself is never made from a claim.

use http::HeaderName;

use super::check::Check;
use crate::config::place::KeyPath;
use crate::config::raw;
use crate::identity::{HeaderMap, HeaderMapping, OnUnmappable};
use crate::token::ClaimPath;

/// Default bound of all claims' headers of a request, in bytes: the request must still fit where services read 16 KiB.
const SIZE_DEFAULT: u64 = 8 * 1024;

/// Bounds of that bound.
const SIZE: std::ops::RangeInclusive<u64> = 64..=64 * 1024;

/// Names that are never made from a claim, folded: framing, hop-by-hop (RFC 9110 section 7.6.1), credentials and
/// what the gateway itself writes.
const RESERVED: [&str; 15] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The same for every name that begins so.
const RESERVED_PREFIXES: [&str; 3] = ["proxy-", "x-forwarded-", "jotgate-"];

/// The claims that become headers.
pub(super) fn headers(raw: &raw::Issuer, at: &KeyPath, check: &mut Check<'_>) -> HeaderMap {
    let table = at.key("headers");
    let mut named: Vec<(&str, &String, KeyPath)> = raw
        .headers
        .iter()
        .flat_map(raw::Table::iter)
        .map(|(header, claim)| (header, claim, table.key(header)))
        .collect();
    named.sort_by(|a, b| check.places.find(&a.2).cmp(&check.places.find(&b.2)));
    let mut seen: Vec<(String, KeyPath)> = vec![];
    let mut claims = vec![];
    for (header, claim, path) in named {
        let header = name(header, &path, &mut seen, check);
        let claim = check.parsed(&path, claim, ClaimPath::parse);
        claims.extend(
            header
                .zip(claim)
                .map(|(header, claim)| HeaderMapping { header, claim }),
        );
    }
    let payload = raw
        .payload_header
        .as_ref()
        .and_then(|header| name(header, &at.key("payload_header"), &mut seen, check));
    let on_unmappable = raw
        .on_unmappable_claim
        .as_ref()
        .and_then(|text| {
            check.parsed(&at.key("on_unmappable_claim"), text, |text| match text {
                "reject" => Ok(OnUnmappable::Reject),
                "omit" => Ok(OnUnmappable::Omit),
                _ => Err("is unknown; write \"reject\" or \"omit\""),
            })
        })
        .unwrap_or_default();
    let size = check.size(
        &at.key("max_headers_size"),
        raw.max_headers_size,
        SIZE_DEFAULT,
        SIZE,
    );
    HeaderMap {
        claims,
        payload,
        on_unmappable,
        size_max: usize::try_from(size).unwrap_or(usize::MAX),
    }
}

pub(super) fn name(
    text: &str,
    path: &KeyPath,
    seen: &mut Vec<(String, KeyPath)>,
    check: &mut Check<'_>,
) -> Option<HeaderName> {
    let name = check.parsed(path, text, header_name)?;
    let folded = fold(name.as_str());
    if is_reserved(&folded) {
        check.fault(
            path,
            format!("{text:?} must not be made from a claim or a certificate, because it means something to HTTP or to the gateway; write another name, such as \"x-user-id\""),
        );
        return None;
    }
    if let Some((_, other)) = seen.iter().find(|(known, _)| *known == folded) {
        let other = check.whereabouts(other);
        check.fault(
            path,
            format!("{text:?} is the same header as {other} to services that fold case and punctuation; write another name"),
        );
        return None;
    }
    seen.push((folded, path.clone()));
    Some(name)
}

/// A header's name (RFC 9110 section 5.1).
pub(super) fn header_name(text: &str) -> Result<HeaderName, &'static str> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| "is no header name; write letters, digits and \"-\", such as \"x-user-id\"")
}

/// How a lenient service reads a name: without case, every sign but letters and digits alike. WSGI, CGI and PHP do it.
pub(super) fn fold(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect()
}

fn is_reserved(folded: &str) -> bool {
    RESERVED.contains(&folded)
        || RESERVED_PREFIXES
            .iter()
            .any(|prefix| folded.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, good, issuer};

    fn headers(members: &str) -> String {
        issuer(&format!("headers = {{ {members} }}"))
    }

    #[test]
    fn claims_become_headers_in_the_order_of_the_file() {
        let settings = good(&issuer(
            "payload_header = \"x-payload\"\non_unmappable_claim = \"omit\"\nmax_headers_size = 64\n[issuers.headers]\nX-User-Id = \"sub\"\nx-roles = \"realm_access.roles\"\na-last = \"/a/b\"",
        ));
        let map = &settings.issuers[0].headers;
        let names: Vec<_> = map
            .claims
            .iter()
            .map(|mapping| mapping.header.as_str())
            .collect();
        assert_eq!(names, ["x-user-id", "x-roles", "a-last"]);
        assert_eq!(
            map.payload.as_ref().map(http::HeaderName::as_str),
            Some("x-payload")
        );
        assert_eq!(map.on_unmappable, super::OnUnmappable::Omit);
        assert_eq!(map.size_max, 64);
    }

    #[test]
    fn headers_that_mean_something_else_are_refused() {
        for name in [
            "host",
            "Content-Length",
            "content_length",
            "transfer-encoding",
            "connection",
            "te",
            "trailer",
            "upgrade",
            "keep-alive",
            "Keep_Alive",
            "proxy-authorization",
            "proxy-connection",
            "proxy_x",
            "authorization",
            "cookie",
            "forwarded",
            "x-forwarded-for",
            "X_Forwarded_User",
            "jotgate-issuer",
            "JOTGATE_x",
            "expect",
        ] {
            check(
                &headers(&format!("{name} = \"sub\"")),
                &format!("issuers[0].headers.{name}"),
                "must not be made from a claim",
            );
        }
        check(
            &issuer("payload_header = \"cookie\""),
            "issuers[0].payload_header",
            "must not be made from a claim",
        );
        for name in [
            "x-host",
            "cookie2",
            "x-forwarded",
            "x-jotgate-id",
            "hostname",
        ] {
            good(&headers(&format!("{name} = \"sub\"")));
        }
    }

    #[test]
    fn names_that_a_service_folds_are_one_name() {
        check(
            &headers("X_User_Id = \"email\", x-user-id = \"sub\""),
            "issuers[0].headers.x-user-id",
            "is the same header as issuers[0].headers.X_User_Id (line 8)",
        );
        check(
            &headers("x-user-id = \"email\", X-User-ID = \"sub\""),
            "issuers[0].headers.x-user-id",
            "is the same header",
        );
        check(
            &headers("x-user-id = \"email\", \"x.user!id\" = \"sub\""),
            "issuers[0].headers.\"x.user!id\"",
            "is the same header",
        );
        check(
            &issuer("payload_header = \"x_user\"\nheaders = { x-user = \"sub\" }"),
            "issuers[0].payload_header",
            "is the same header",
        );
    }

    #[test]
    fn both_sides_of_a_header_are_judged() {
        check(
            &headers("\"x user\" = \"sub\""),
            "issuers[0].headers.\"x user\"",
            "is no header name",
        );
        check(
            &headers("x-user = \"\""),
            "issuers[0].headers.x-user",
            "is no claim",
        );
        check(
            &issuer("on_unmappable_claim = \"drop\""),
            "issuers[0].on_unmappable_claim",
            "write \"reject\" or \"omit\"",
        );
        check(
            &issuer("max_headers_size = 63"),
            "issuers[0].max_headers_size",
            "is out of bounds",
        );
    }
}
