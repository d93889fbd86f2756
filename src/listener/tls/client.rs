//! Who a client is by its certificate, in words that a service reads in one way only.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use x509_parser::asn1_rs::ToDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Longest value of a header about a certificate, in bytes. Services read heads of 8 KiB and more; names of services have
/// some hundred bytes.
const VALUE_BYTES_MAX: usize = 4 * 1024;

/// Short names of attributes (RFC 4514 section 3).
const ATTRIBUTES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// What is encoded in an alternative name: what would end it, and what no header carries.
const NAME: &AsciiSet = &CONTROLS.add(b' ').add(b',').add(b'%').add(b'"');

/// Which headers say who the client is.
#[derive(Clone, Debug, Default)]
pub struct CertificateHeaders {
    /// The subject (RFC 4514).
    pub subject: Option<HeaderName>,
    /// The subject alternative names.
    pub san: Option<HeaderName>,
}

impl CertificateHeaders {
    /// All names, which no client may send.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.subject.iter().chain(&self.san)
    }

    /// The headers of this certificate. One that cannot be told in headers is none: the connection ends.
    pub(super) fn of(&self, der: &[u8]) -> io::Result<Box<[(HeaderName, HeaderValue)]>> {
        if self.names().next().is_none() {
            return Ok(Box::default());
        }
        let (_, certificate) = X509Certificate::from_der(der).map_err(io::Error::other)?;
        let mut headers = vec![];
        if let Some(name) = &self.subject {
            add(&mut headers, name, subject(certificate.subject()))?;
        }
        if let Some(name) = &self.san {
            let names = certificate
                .subject_alternative_name()
                .map_err(io::Error::other)?;
            let names: Vec<String> = names
                .iter()
                .flat_map(|names| &names.value.general_names)
                .filter_map(alternative)
                .collect();
            add(&mut headers, name, Some(names.join(",")))?;
        }
        Ok(headers.into())
    }
}

/// Nothing is no header, so that a service does not take it for a name.
fn add(
    headers: &mut Vec<(HeaderName, HeaderValue)>,
    name: &HeaderName,
    value: Option<String>,
) -> io::Result<()> {
    let value = value.ok_or_else(|| io::Error::other("a subject that has no text form"))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(io::Error::other(
            "the names of the certificate are too long",
        ));
    }
    if !value.is_empty() {
        let value = HeaderValue::try_from(value).map_err(io::Error::other)?;
        headers.push((name.clone(), value));
    }
    Ok(())
}

/// RFC 4514: the last attribute first, in ASCII.
fn subject(name: &X509Name<'_>) -> Option<String> {
    let parts: Option<Vec<String>> = name
        .iter_rdn()
        .map(|part| {
            let attributes: Option<Vec<String>> = part.iter().map(attribute).collect();
            Some(attributes?.join("+"))
        })
        .collect();
    let mut parts = parts?;
    parts.reverse();
    Some(parts.join(","))
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let id = attribute.attr_type().to_id_string();
    let known = ATTRIBUTES.iter().find(|(known, _)| *known == id);
    match (known, attribute.as_str()) {
        (Some((_, name)), Ok(text)) => Some(format!("{name}={}", escaped(text))),
        // Section 2.4: what has no known text is its DER in hex.
        (known, _) => {
            let mut text = format!("{}=#", known.map_or(id.as_str(), |(_, name)| name));
            for byte in attribute.attr_value().to_der_vec().ok()? {
                let _ = write!(text, "{byte:02x}");
            }
            Some(text)
        }
    }
}

/// Section 2.4. What is no visible ASCII is escaped byte by byte.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        let at_edge = at == 0 || at + 1 == text.len();
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'=' => {
                escaped.push('\\');
                escaped.push(char::from(byte));
            }
            b'#' if at == 0 => escaped.push_str("\\#"),
            b' ' if at_edge => escaped.push_str("\\20"),
            b' '..=b'~' => escaped.push(char::from(byte)),
            _ => {
                let _ = write!(escaped, "\\{byte:02X}");
            }
        }
    }
    escaped
}

/// `DNS:api.example.com`, `URI:spiffe://example.com/api`, `IP:192.0.2.1`, `email:ops@example.com`. Others have no text.
fn alternative(name: &GeneralName<'_>) -> Option<String> {
    let encoded = |kind: &str, text: &str| format!("{kind}:{}", utf8_percent_encode(text, NAME));
    match name {
        GeneralName::DNSName(text) => Some(encoded("DNS", text)),
        GeneralName::URI(text) => Some(encoded("URI", text)),
        GeneralName::RFC822Name(text) => Some(encoded("email", text)),
        GeneralName::IPAddress(bytes) => {
            let address = match bytes.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
            };
            Some(format!("IP:{address}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn told(subject: &[(DnType, &str)], names: Vec<SanType>) -> io::Result<Vec<String>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            let value = DnValue::Utf8String((*value).to_owned());
            params.distinguished_name.push(kind.clone(), value);
        }
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let headers = CertificateHeaders {
            subject: Some(HeaderName::from_static("subject")),
            san: Some(HeaderName::from_static("san")),
        };
        let made = headers.of(certificate.der())?;
        let line = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{name}: {}", value.to_str().expect("ASCII"))
        };
        Ok(made.iter().map(line).collect())
    }

    #[test]
    fn no_subject_has_two_readings() {
        let check = |value: &str, expected: &str| {
            let lines = told(&[(DnType::CommonName, value)], vec![]).unwrap();
            assert_eq!(lines, [format!("subject: CN={expected}")], "{value:?}");
        };
        check("api", "api");
        check("api,O=admin", "api\\,O\\=admin");
        check("a+b\"c\\d<e>f;g", "a\\+b\\\"c\\\\d\\<e\\>f\\;g");
        check(" #a b ", "\\20#a b\\20");
        check("#a", "\\#a");
        check("a\r\nx-user-id: root\0", "a\\0D\\0Ax-user-id: root\\00");
        check("Ä", "\\C3\\84");
    }

    #[test]
    fn the_last_attribute_comes_first() {
        let subject = [
            (DnType::CountryName, "CH"),
            (DnType::OrganizationName, "Shop"),
            (DnType::CustomDnType(vec![1, 2, 3]), "x"),
            (DnType::CommonName, "api"),
        ];
        let lines = told(&subject, vec![]).unwrap();
        assert_eq!(lines, ["subject: CN=api,1.2.3=#0c0178,O=Shop,C=CH"]);
    }

    #[test]
    fn alternative_names_cannot_pretend_to_be_more_than_one() {
        let names = vec![
            SanType::DnsName("api.example.com".try_into().unwrap()),
            SanType::URI("spiffe://example.com/a,DNS:admin %2c".try_into().unwrap()),
            SanType::IpAddress([192, 0, 2, 1].into()),
            SanType::Rfc822Name("ops@example.com".try_into().unwrap()),
        ];
        let lines = told(&[], names).unwrap();
        let expected = "san: DNS:api.example.com,URI:spiffe://example.com/a%2CDNS:admin%20%252c,IP:192.0.2.1,email:ops@example.com";
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn names_that_no_service_could_read_are_refused() {
        let long = "a".repeat(VALUE_BYTES_MAX);
        assert!(told(&[(DnType::CommonName, &long)], vec![]).is_err());
        let fits = "a".repeat(VALUE_BYTES_MAX - 3);
        assert!(told(&[(DnType::CommonName, &fits)], vec![]).is_ok());
    }
}
