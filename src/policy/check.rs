//! Claims against a requirement.

use serde_json::Value;

use super::requirement::{ClaimRequirement, Requirement};
use crate::token::Claims;

/// What is lacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// A scope: 403 with `insufficient_scope` and the scopes that are asked.
    Scope,
    /// A claim: 403.
    Claim,
}

/// Whether `claims` have what `requirement` asks.
pub fn check(claims: &Claims, requirement: &Requirement) -> Result<(), Lacking> {
    let has = |scope: &str| claims.scopes.iter().any(|held| **held == *scope);
    if !requirement.scopes.iter().all(|scope| has(scope)) {
        return Err(Lacking::Scope);
    }
    if !requirement.any_scope.is_empty() && !requirement.any_scope.iter().any(|scope| has(scope)) {
        return Err(Lacking::Scope);
    }
    if requirement
        .claims
        .iter()
        .all(|asked| holds(&claims.all, asked))
    {
        Ok(())
    } else {
        Err(Lacking::Claim)
    }
}

fn holds(claims: &Value, asked: &ClaimRequirement) -> bool {
    match asked.path.find(claims) {
        Some(Value::Array(held)) => held.iter().any(|value| asked.any_of.contains(value)),
        Some(value) => asked.any_of.contains(value),
        None => false,
    }
}
