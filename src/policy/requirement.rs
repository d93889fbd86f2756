//! What a route asks of a token's claims, and of the request that it comes with.

use serde_json::Value;

use super::expression::Expression;
use crate::token::ClaimPath;

/// All of it must hold. Empty: nothing is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// Every one of these scopes.
    pub scopes: Vec<Box<str>>,
    /// At least one of these, unless empty.
    pub any_scope: Vec<Box<str>>,
    /// Every one of these claims.
    pub claims: Vec<ClaimRequirement>,
    /// What must be true.
    pub expression: Option<Expression>,
}

/// A claim that must have one of some values. A claim that is an array has a value when one of its
/// elements is equal to it. Values are compared as JSON, so `"1"` is not `1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimRequirement {
    /// Which claim.
    pub path: ClaimPath,
    /// Strings, booleans or integers; at least one.
    pub any_of: Vec<Value>,
}

impl Requirement {
    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty()
            && self.any_scope.is_empty()
            && self.claims.is_empty()
            && self.expression.is_none()
    }
}
