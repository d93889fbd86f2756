//! What a route matches: hosts and paths, as the configuration writes them.

use super::host::Host;
use super::path::NormalPath;

/// `shop.example.com`, or `*.example.com` for every host below, however deep, but not `example.com` itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host.
    Exact(Box<str>),
    /// Every host that ends with this text, which begins with a dot.
    Below(Box<str>),
}

/// What a route's path matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path and all below it: `/api` matches `/api`, `/api/` and `/api/x`, not `/apis`. Without a trailing
    /// slash; the prefix of everything is the empty text.
    Prefix(Box<str>),
    /// This path alone.
    Exact(Box<str>),
}

/// Why a pattern cannot be used, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// No host.
    #[error(
        "is no host; write a name such as \"shop.example.com\" or \"*.example.com\", without scheme, port or path"
    )]
    Host,
    /// No path.
    #[error("is no path: {0}; write one such as \"/orders\"")]
    Path(super::PathError),
    /// Requests are matched in normal form, so this would never match.
    #[error("would never match, because paths are normalised first; write \"{0}\"")]
    NotNormal(String),
}

impl HostPattern {
    /// Parses a host of the configuration.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (below, name) = text
            .strip_prefix("*.")
            .map_or((false, text), |name| (true, name));
        let has_port = !name.starts_with('[') && name.contains(':') || name.contains("]:");
        let host = Host::parse(name).map_err(|_| PatternError::Host)?;
        if has_port || (below && name.starts_with('[')) {
            return Err(PatternError::Host);
        }
        Ok(if below {
            Self::Below(format!(".{}", host.as_str()).into())
        } else {
            Self::Exact(host.as_str().into())
        })
    }

    /// Whether it matches this host.
    #[must_use]
    pub fn covers(&self, host: &Host<'_>) -> bool {
        let name = host.as_str();
        match self {
            Self::Exact(known) => **known == *name,
            Self::Below(suffix) => name.len() > suffix.len() && name.ends_with(&**suffix),
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl PathPattern {
    /// Parses a prefix of the configuration.
    pub fn prefix(text: &str) -> Result<Self, PatternError> {
        let path = normal(text)?;
        Ok(Self::Prefix(path.strip_suffix('/').unwrap_or(path).into()))
    }

    /// Parses an exact path of the configuration.
    pub fn exact(text: &str) -> Result<Self, PatternError> {
        Ok(Self::Exact(normal(text)?.into()))
    }
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prefix(path) => write!(f, "{path}/*"),
            Self::Exact(path) => f.write_str(path),
        }
    }
}

fn normal(text: &str) -> Result<&str, PatternError> {
    let path = NormalPath::parse(text).map_err(PatternError::Path)?;
    if path.as_str() == text {
        Ok(text)
    } else {
        Err(PatternError::NotNormal(path.as_str().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_kept_in_normal_form() {
        assert_eq!(
            HostPattern::parse("Shop.Example.com"),
            Ok(HostPattern::Exact("shop.example.com".into()))
        );
        assert_eq!(
            HostPattern::parse("*.example.com"),
            Ok(HostPattern::Below(".example.com".into()))
        );
        assert_eq!(PathPattern::prefix("/"), Ok(PathPattern::Prefix("".into())));
        assert_eq!(
            PathPattern::prefix("/api/"),
            Ok(PathPattern::Prefix("/api".into()))
        );
        assert_eq!(
            PathPattern::exact("/api/"),
            Ok(PathPattern::Exact("/api/".into()))
        );
    }

    #[test]
    fn a_host_covers_itself_and_a_star_what_is_below() {
        let covers = |pattern: &str, host: &str| {
            HostPattern::parse(pattern)
                .unwrap()
                .covers(&Host::parse(host).unwrap())
        };
        assert!(covers("shop.example.com", "Shop.Example.com:80"));
        assert!(!covers("shop.example.com", "a.shop.example.com"));
        assert!(covers("*.example.com", "a.b.example.com"));
        assert!(!covers("*.example.com", "example.com"));
        assert!(!covers("*.example.com", "badexample.com"));
    }

    #[test]
    fn what_would_never_match_is_refused() {
        for host in [
            "", "*", "*.", "a:80", "http://a", "a/b", "*.*.a", "[::1]:80",
        ] {
            assert_eq!(
                HostPattern::parse(host),
                Err(PatternError::Host),
                "{host:?}"
            );
        }
        assert_eq!(
            PathPattern::prefix("/a//b"),
            Err(PatternError::NotNormal("/a/b".into()))
        );
        assert!(matches!(
            PathPattern::prefix("api"),
            Err(PatternError::Path(_))
        ));
        assert!(matches!(
            PathPattern::exact("/a/../b"),
            Err(PatternError::Path(_))
        ));
    }
}
