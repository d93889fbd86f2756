//! Why a token is not accepted.

/// Why a token is not accepted, or not yet. The exact reason is for the log and the metrics; the client is told
/// less (`authorize`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reject {
    /// Not a compact JWS in canonical form with JSON objects of one reading.
    #[error("the token is malformed")]
    Malformed,
    /// Longer than [`crate::base::limits::TOKEN_BYTES_MAX`].
    #[error("the token is too large")]
    TooLarge,
    /// `crit` or `b64` (RFC 7515 section 4.1.11, RFC 7797).
    #[error("the token uses an extension that is not supported")]
    CritUnsupported,
    /// A registered claim is missing or has the wrong form.
    #[error("a registered claim is missing or has the wrong form")]
    ClaimMalformed,
    /// `iss` is none of the route's.
    #[error("the issuer is not one of the route's")]
    IssuerUnknown,
    /// `alg` is unknown, `none`, or not on the issuer's list.
    #[error("the algorithm is not allowed")]
    AlgorithmNotAllowed,
    /// `typ` is not on the issuer's list.
    #[error("the token type is not allowed")]
    TypeNotAllowed,
    /// `exp` is past.
    #[error("the token has expired")]
    Expired,
    /// `nbf` lies ahead.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iat` lies ahead.
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// `exp - iat` is more than the issuer's bound.
    #[error("the token lives longer than is allowed")]
    LifetimeTooLong,
    /// `aud` names none of the issuer's audiences.
    #[error("the token is for another audience")]
    AudienceMismatch,
    /// A claim that the issuer requires is missing.
    #[error("a required claim is missing")]
    ClaimMissing,
    /// No key has this `kid`, and a refresh did not bring one.
    #[error("the key is unknown")]
    KeyUnknown,
    /// The key exists, but is not for this algorithm.
    #[error("the key does not fit the algorithm")]
    KeyMismatch,
    /// No candidate key verifies the signature.
    #[error("the signature is wrong")]
    SignatureInvalid,
}

impl Reject {
    /// Every reason.
    pub const ALL: [Self; 16] = [
        Self::Malformed,
        Self::TooLarge,
        Self::CritUnsupported,
        Self::ClaimMalformed,
        Self::IssuerUnknown,
        Self::AlgorithmNotAllowed,
        Self::TypeNotAllowed,
        Self::Expired,
        Self::NotYetValid,
        Self::IssuedInFuture,
        Self::LifetimeTooLong,
        Self::AudienceMismatch,
        Self::ClaimMissing,
        Self::KeyUnknown,
        Self::KeyMismatch,
        Self::SignatureInvalid,
    ];

    /// Whether no issuer of the route could ever have signed it: only who makes tokens up, or confuses two worlds, sends such
    /// a one. Expired tokens, tokens of another audience or of a key that was replaced are what honest clients are left with.
    #[must_use]
    pub const fn is_never_right(self) -> bool {
        match self {
            Self::Malformed
            | Self::TooLarge
            | Self::CritUnsupported
            | Self::ClaimMalformed
            | Self::IssuerUnknown
            | Self::AlgorithmNotAllowed
            | Self::KeyMismatch
            | Self::SignatureInvalid => true,
            Self::TypeNotAllowed
            | Self::Expired
            | Self::NotYetValid
            | Self::IssuedInFuture
            | Self::LifetimeTooLong
            | Self::AudienceMismatch
            | Self::ClaimMissing
            | Self::KeyUnknown => false,
        }
    }

    /// One stable word for log and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::TooLarge => "token_too_large",
            Self::CritUnsupported => "crit_unsupported",
            Self::ClaimMalformed => "claim_malformed",
            Self::IssuerUnknown => "issuer_unknown",
            Self::AlgorithmNotAllowed => "alg_not_allowed",
            Self::TypeNotAllowed => "type_not_allowed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::LifetimeTooLong => "lifetime_too_long",
            Self::AudienceMismatch => "audience_mismatch",
            Self::ClaimMissing => "claim_missing",
            Self::KeyUnknown => "key_unknown",
            Self::KeyMismatch => "key_mismatch",
            Self::SignatureInvalid => "signature_invalid",
        }
    }
}
