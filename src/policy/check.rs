//! Claims against a requirement.

use serde_json::Value;

use super::expression::{Refused, Request};
use super::requirement::{ClaimRequirement, Requirement};
use crate::token::Claims;

/// What is lacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// A scope: 403 with `insufficient_scope` and the scopes that are asked.
    Scope,
    /// A claim: 403.
    Claim,
    /// The expression is false, or cannot be told: 403.
    Expression(Refused),
}

/// Whether `claims`, and the request that they come with, have what `requirement` asks. Without a request an expression
/// cannot be told.
pub fn check(
    claims: &Claims,
    requirement: &Requirement,
    request: Option<&Request<'_>>,
) -> Result<(), Lacking> {
    let has = |scope: &str| claims.scopes.iter().any(|held| **held == *scope);
    if !requirement.scopes.iter().all(|scope| has(scope)) {
        return Err(Lacking::Scope);
    }
    if !requirement.any_scope.is_empty() && !requirement.any_scope.iter().any(|scope| has(scope)) {
        return Err(Lacking::Scope);
    }
    let holds = |asked: &ClaimRequirement| holds(&claims.all, asked);
    if !requirement.claims.iter().all(holds) {
        return Err(Lacking::Claim);
    }
    match (&requirement.expression, request) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(Lacking::Expression(Refused::Failed)),
        (Some(expression), Some(request)) => expression
            .holds(claims, request)
            .map_err(Lacking::Expression),
    }
}

fn holds(claims: &Value, asked: &ClaimRequirement) -> bool {
    match asked.path.find(claims) {
        Some(Value::Array(held)) => held.iter().any(|value| asked.any_of.contains(value)),
        Some(value) => asked.any_of.contains(value),
        None => false,
    }
}
