//! Rules as the admin API's answers show them. Ten thousand of them are written in one go, so they borrow what they show and
//! become text without a tree of values between.

use serde::Serialize;

use crate::control::denylist::{Outcome, Page, Receipt, Record, RuleId, Verdict};

/// What every answer shows of a rule.
#[derive(Serialize)]
struct Rule<'a> {
    id: RuleId,
    kind: &'static str,
    iss: &'a str,
    value: Option<&'a str>,
    /// Null: whenever issued.
    cutoff: Option<u64>,
    /// Null: until lifted.
    until: Option<u64>,
    standing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    except_sid: Option<&'a str>,
}

impl<'a> From<&'a Record> for Rule<'a> {
    fn from(record: &'a Record) -> Self {
        let span = record.span();
        Self {
            id: record.id,
            kind: record.id.kind.as_str(),
            iss: &record.issuer,
            value: record.value.as_deref(),
            cutoff: span.cutoff.instant().map(|at| at.0),
            until: span.until.instant().map(|at| at.0),
            standing: record.is_standing(),
            except_sid: record.pinned.as_ref().map(|pinned| &*pinned.session_id),
        }
    }
}

/// A rule with its history.
#[derive(Serialize)]
struct Full<'a> {
    #[serde(flatten)]
    rule: Rule<'a>,
    reason: Option<&'a str>,
    by: &'a str,
    at: u64,
}

/// A rule that was just made.
#[derive(Serialize)]
struct Made<'a> {
    #[serde(flatten)]
    rule: Rule<'a>,
    created: bool,
    #[serde(flatten)]
    fate: Fate,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Fate {
    DryRun { dry_run: bool },
    Written { durable: bool, applied: Applied },
}

#[derive(Clone, Copy, Serialize)]
struct Applied {
    gateways: usize,
    of: usize,
}

impl From<Option<&Receipt>> for Applied {
    /// Without a fleet a rule lives in this one gateway: in its memory, and in its log if it has one.
    fn from(receipt: Option<&Receipt>) -> Self {
        let (gateways, of) = receipt.map_or((1, 1), |receipt| receipt.applied);
        Self { gateways, of }
    }
}

/// How far a change has come in a fleet.
#[derive(Serialize)]
struct Spread<'a> {
    wait: &'static str,
    reached: bool,
    relayed: bool,
    /// Null: the relay does not have it.
    effective_by: Option<u64>,
    pending: &'a [Box<str>],
}

impl<'a> From<&'a Receipt> for Spread<'a> {
    fn from(receipt: &'a Receipt) -> Self {
        Self {
            wait: receipt.wait.as_str(),
            reached: receipt.reached,
            relayed: receipt.relayed,
            effective_by: receipt.effective_by.map(|at| at.0),
            pending: &receipt.pending,
        }
    }
}

/// The answer to `POST /v1/revocations`. The fleet has one part for all: they were sent together.
pub(super) fn revoked<'r>(
    outcomes: &'r [Outcome],
    durable: bool,
    receipt: Option<&'r Receipt>,
) -> impl Serialize + use<'r> {
    #[derive(Serialize)]
    struct Revoked<'a> {
        rules: Vec<Made<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        fleet: Option<Spread<'a>>,
    }
    let applied = Applied::from(receipt);
    Revoked {
        rules: outcomes
            .iter()
            .map(|outcome| made(outcome, durable, applied))
            .collect(),
        fleet: receipt.map(Spread::from),
    }
}

/// One rule, and how far everything has come that is in force here.
pub(super) fn record<'r>(
    record: &'r Record,
    around: Option<&'r Receipt>,
) -> impl Serialize + use<'r> {
    #[derive(Serialize)]
    struct Around<'a> {
        relayed: bool,
        applied: Applied,
        pending: &'a [Box<str>],
    }
    #[derive(Serialize)]
    struct Read<'a> {
        #[serde(flatten)]
        rule: Full<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        fleet: Option<Around<'a>>,
    }
    Read {
        rule: full(record),
        fleet: around.map(|around| Around {
            relayed: around.relayed,
            applied: Applied::from(Some(around)),
            pending: &around.pending,
        }),
    }
}

/// A page of the list.
pub(super) fn page(page: &Page) -> impl Serialize {
    #[derive(Serialize)]
    struct List<'a> {
        rules: Vec<Full<'a>>,
        next: Option<RuleId>,
    }
    List {
        rules: page.records.iter().map(full).collect(),
        next: page.next,
    }
}

/// What is left of a standing order that was lifted.
pub(super) fn lifted<'r>(
    id: RuleId,
    rest: Option<&'r Record>,
    receipt: Option<&'r Receipt>,
) -> impl Serialize + use<'r> {
    #[derive(Serialize)]
    struct Answer<'a> {
        lifted: RuleId,
        remaining: Option<Full<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        fleet: Option<Spread<'a>>,
    }
    Answer {
        lifted: id,
        remaining: rest.map(full),
        fleet: receipt.map(Spread::from),
    }
}

/// Which rules deny a token.
pub(super) fn verdict(verdict: &Verdict) -> impl Serialize {
    #[derive(Serialize)]
    struct Checked<'a> {
        denied: bool,
        rules: Vec<Full<'a>>,
    }
    Checked {
        denied: !verdict.denied_by.is_empty(),
        rules: verdict.denied_by.iter().map(full).collect(),
    }
}

fn made(outcome: &Outcome, durable: bool, applied: Applied) -> Made<'_> {
    Made {
        rule: Rule::from(&*outcome.record),
        created: outcome.created,
        fate: if outcome.dry_run {
            Fate::DryRun { dry_run: true }
        } else {
            Fate::Written { durable, applied }
        },
    }
}

fn full(record: &Record) -> Full<'_> {
    Full {
        rule: Rule::from(record),
        reason: record.reason.as_deref(),
        by: &record.by,
        at: record.at.0,
    }
}
