//! How far a change has come: durable here, taken by the relay, in force on the gateways of the fleet. A caller says how far it must
//! come before there is an answer, and gets the truth at that moment in any case.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::relay::{Fleet, Member, Relayed};
use crate::base::clock::UnixSeconds;

/// How far a change must come before its caller is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// In force here, and synced to the log if there is one.
    Local,
    /// Taken by the relay as well.
    Relay,
    /// In force on every gateway that the relay knows.
    Fleet,
}

impl Wait {
    /// The word of bodies and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Relay => "relay",
            Self::Fleet => "fleet",
        }
    }
}

/// What a caller waits for, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// None: what an acknowledgement means. In a fleet that is the relay, else this gateway.
    pub wait: Option<Wait>,
    /// After this the answer says what was reached.
    pub timeout: Duration,
}

impl Default for Patience {
    /// A relay takes milliseconds; one that needs two seconds is away.
    fn default() -> Self {
        Self {
            wait: None,
            timeout: Duration::from_secs(2),
        }
    }
}

/// How far a change has come in a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What was waited for.
    pub wait: Wait,
    /// Whether it was reached.
    pub reached: bool,
    /// Whether the relay has it.
    pub relayed: bool,
    /// After this instant no gateway lets a token through that the change denies, on routes with `on_stale = "deny"`. Whole seconds,
    /// rounded up. None: the relay does not have it, or nobody asked it who is there.
    pub effective_by: Option<UnixSeconds>,
    /// Gateways on which it is in force, of how many.
    pub applied: (usize, usize),
    /// Names of the others.
    pub pending: Vec<Box<str>>,
}

/// Between two looks at the members: a healthy fleet is done in a few milliseconds; of one that is not, nothing new is learnt sooner.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Waits until the change with this sequence has come as far as `wait` says, for at most `timeout`.
pub(super) async fn follow(fleet: &Fleet, sequence: u64, wait: Wait, timeout: Duration) -> Receipt {
    let deadline = Instant::now() + timeout;
    let mut relayed = fleet.relayed();
    if wait > Wait::Local {
        // Late or gone, the receipt says what is so.
        let _ = timeout_at(deadline, relayed.wait_for(|it| it.has(sequence))).await;
    }
    let target = relayed.borrow().clone();
    if wait == Wait::Local || !target.has(sequence) {
        return Receipt::of(fleet, &target, sequence, wait, None);
    }
    if wait == Wait::Relay {
        // Who may trust an older denylist for how long is known to whoever asks afterwards.
        let asked = members_by(fleet, deadline).await;
        return Receipt::of(fleet, &target, sequence, wait, asked.as_deref());
    }
    until_applied(fleet, sequence, deadline, || relayed.borrow().clone()).await
}

/// The members as they are now. None: the relay was away until the deadline.
async fn members_by(fleet: &Fleet, deadline: Instant) -> Option<Vec<Member>> {
    let asking = async {
        loop {
            if let Some(members) = fleet.refreshed().await {
                return members;
            }
            sleep(PAUSE_MAX).await;
        }
    };
    timeout_at(deadline, asking).await.ok()
}

/// How far everything has come that is in force here now: own changes up to `sequence`, and what others wrote.
pub(super) async fn look(fleet: &Fleet, sequence: u64, at_most: Duration) -> Receipt {
    let deadline = Instant::now() + at_most;
    let mut relayed = fleet.relayed();
    let _ = timeout_at(deadline, relayed.wait_for(|it| it.has(sequence))).await;
    let mut target = relayed.borrow().clone();
    let view = fleet.view();
    // What others wrote may stand after it. In another run it was published again, and this gateway has said where.
    if target.run == view.run {
        target.id = target.id.max(view.applied).max(view.last);
    }
    if !target.has(sequence) {
        return Receipt::of(fleet, &target, sequence, Wait::Fleet, None);
    }
    until_applied(fleet, sequence, deadline, || target.clone()).await
}

/// Asks the members until each has applied what `target` says, or it is too late.
async fn until_applied(
    fleet: &Fleet,
    sequence: u64,
    deadline: Instant,
    target: impl Fn() -> Relayed,
) -> Receipt {
    let mut pause = PAUSE_MIN;
    let mut asked = None;
    loop {
        // A relay that is away leaves what was known.
        if let Ok(Some(now)) = timeout_at(deadline, fleet.refreshed()).await {
            asked = Some(now);
        }
        // The target anew each time: in another run the change stands elsewhere in the stream.
        let receipt = Receipt::of(fleet, &target(), sequence, Wait::Fleet, asked.as_deref());
        let left = deadline.saturating_duration_since(Instant::now());
        if receipt.reached || left.is_zero() {
            return receipt;
        }
        sleep(pause.min(left)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Receipt {
    /// As it is now. `asked`: the members that there are since the relay has the change; whoever comes later reads it before anything
    /// else. Without, they are as they were some time ago: one may have come since, and be patient for longer than the others.
    fn of(
        fleet: &Fleet,
        target: &Relayed,
        sequence: u64,
        wait: Wait,
        asked: Option<&[Member]>,
    ) -> Self {
        let known = fleet.members();
        let members = asked.unwrap_or(&known);
        let relayed = target.has(sequence);
        // What is acknowledged is in force here, whatever this gateway has reported of itself.
        let has = |member: &Member| {
            let is_this = *member.name == *fleet.name();
            let has_said = relayed && member.run == target.run && member.applied >= target.id;
            // Of two with one name, one may not have it.
            !member.shares_name && (is_this || has_said)
        };
        let longest = members.iter().map(|member| member.max_staleness).max();
        let max_staleness = fleet.max_staleness().max(longest.unwrap_or_default());
        let pending: Vec<Box<str>> = members
            .iter()
            .filter(|member| !has(member))
            .map(|member| member.name.clone())
            .collect();
        let knows_us = members.iter().any(|member| *member.name == *fleet.name());
        let of = members.len() + usize::from(!knows_us);
        Self {
            wait,
            reached: match wait {
                Wait::Local => true,
                Wait::Relay => relayed,
                Wait::Fleet => relayed && pending.is_empty(),
            },
            relayed,
            effective_by: (relayed && asked.is_some())
                .then(|| effective_by(target.at, max_staleness)),
            applied: (of - pending.len(), of),
            pending,
        }
    }
}

/// Whoever reported before `at` may trust its denylist for its own `max_staleness`, of which this is the longest; whoever reports later has read the change first. `at` was cut to
/// whole seconds, so that one more makes it sure.
fn effective_by(at: UnixSeconds, max_staleness: Duration) -> UnixSeconds {
    let whole = max_staleness.as_secs() + u64::from(max_staleness.subsec_nanos() > 0);
    at.plus(Duration::from_secs(whole + 1))
}

#[cfg(test)]
mod tests {
    use super::super::relay::testing::{FleetHand, fleet};
    use super::super::relay::{EntryId, Run, View};
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn id(ms: u64) -> EntryId {
        EntryId { ms, sequence: 0 }
    }

    fn run(server: &str) -> Run {
        Run {
            server: server.into(),
            epoch: "e".into(),
        }
    }

    fn member(name: &str, server: &str, applied: u64) -> Member {
        Member {
            name: name.into(),
            version: "1".into(),
            run: run(server),
            applied: id(applied),
            entries: 1,
            in_sync: true,
            at: UnixSeconds(100),
            max_staleness: Duration::from_secs(30),
            shares_name: false,
        }
    }

    fn relayed(sequence: u64, server: &str, at_id: u64) -> Relayed {
        Relayed {
            sequence,
            run: run(server),
            id: id(at_id),
            at: UnixSeconds(100),
        }
    }

    fn scene() -> (Fleet, FleetHand) {
        let (fleet, hand) = fleet("a".into(), Duration::from_millis(30_500));
        hand.show_members(vec![member("a", "s", 1), member("b", "s", 1)]);
        (fleet, hand)
    }

    /// Answers each question with the next of these, and the last again and again.
    fn answer(mut hand: FleetHand, answers: Vec<Vec<Member>>) -> tokio::task::JoinHandle<usize> {
        tokio::spawn(async move {
            let mut asked = 0;
            while let Some(question) = hand.asked.recv().await {
                let members = answers[asked.min(answers.len() - 1)].clone();
                asked += 1;
                let _ = question.send(members);
            }
            asked
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_local_wait_asks_nobody() {
        let (fleet, _hand) = scene();
        let began = Instant::now();
        let receipt = follow(&fleet, 7, Wait::Local, TIMEOUT).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(receipt.reached && !receipt.relayed);
        assert_eq!((receipt.applied, receipt.effective_by), ((1, 2), None));
        assert_eq!(receipt.pending, [Box::from("b")]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_relay_is_waited_for_and_no_longer_than_asked() {
        let (fleet, hand) = scene();
        hand.relayed.send_replace(relayed(6, "s", 5));
        let began = Instant::now();
        let receipt = follow(&fleet, 7, Wait::Relay, TIMEOUT).await;
        assert_eq!(began.elapsed(), TIMEOUT);
        assert!(!receipt.reached && !receipt.relayed && receipt.effective_by.is_none());
        let waiting = tokio::spawn({
            let fleet = fleet.clone();
            async move { follow(&fleet, 7, Wait::Relay, TIMEOUT).await }
        });
        sleep(Duration::from_secs(1)).await;
        hand.relayed.send_replace(relayed(7, "s", 6));
        let asked = answer(hand, vec![vec![member("a", "s", 6), member("b", "s", 5)]]);
        let receipt = waiting.await.expect("no panic");
        assert!(receipt.reached && receipt.relayed);
        assert_eq!(began.elapsed(), TIMEOUT + Duration::from_secs(1));
        // 100 s, cut, and 30.5 s: before 131.5 s.
        assert_eq!(receipt.effective_by, Some(UnixSeconds(132)));
        drop(fleet);
        assert_eq!(asked.await.expect("no panic"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_knowing_who_is_there_nothing_is_promised() {
        let (fleet, mut hand) = scene();
        hand.relayed.send_replace(relayed(7, "s", 6));
        tokio::spawn(async move { while hand.asked.recv().await.is_some() {} });
        for wait in [Wait::Local, Wait::Relay, Wait::Fleet] {
            let receipt = follow(&fleet, 7, wait, TIMEOUT).await;
            assert!(
                receipt.relayed && receipt.effective_by.is_none(),
                "{wait:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_process_has_not_sent_yet_is_not_relayed() {
        // It was restarted with its log, and the relay is away.
        let (fleet, _hand) = scene();
        for receipt in [
            look(&fleet, 0, TIMEOUT).await,
            follow(&fleet, 0, Wait::Relay, TIMEOUT).await,
        ] {
            assert!(!receipt.relayed && !receipt.reached, "{receipt:?}");
            assert_eq!(receipt.pending, [Box::from("b")]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_fleet_is_waited_for_until_each_has_applied_it() {
        let (fleet, hand) = scene();
        hand.relayed.send_replace(relayed(7, "s", 6));
        let ours = member("a", "s", 1);
        let asked = answer(
            hand,
            vec![
                vec![ours.clone(), member("b", "s", 5), member("c", "s", 9)],
                vec![ours.clone(), member("b", "s", 5), member("c", "s", 9)],
                vec![ours, member("b", "s", 6), member("c", "s", 9)],
            ],
        );
        let receipt = follow(&fleet, 7, Wait::Fleet, TIMEOUT).await;
        assert!(receipt.reached && receipt.pending.is_empty());
        assert_eq!(receipt.applied, (3, 3));
        drop(fleet);
        assert_eq!(asked.await.expect("no panic"), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_late_is_named() {
        let (fleet, hand) = scene();
        hand.relayed.send_replace(relayed(7, "s", 6));
        // As far, in another run: that says nothing.
        let members = vec![member("b", "other", 9), member("c", "s", 6)];
        let _answering = answer(hand, vec![members]);
        let began = Instant::now();
        let receipt = follow(&fleet, 7, Wait::Fleet, TIMEOUT).await;
        assert_eq!(began.elapsed(), TIMEOUT);
        assert!(!receipt.reached && receipt.relayed);
        assert_eq!(receipt.pending, [Box::from("b")]);
        assert_eq!(
            receipt.applied,
            (2, 3),
            "this gateway counts, reported or not"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_with_one_name_nobody_knows_what_both_have() {
        for (name, of) in [("a", 2), ("b", 2)] {
            let (fleet, hand) = scene();
            hand.relayed.send_replace(relayed(7, "s", 6));
            let mut members = vec![member("a", "s", 6), member("b", "s", 6)];
            let twin = members.iter_mut().find(|member| *member.name == *name);
            twin.expect("one of them").shares_name = true;
            let _answering = answer(hand, vec![members]);
            let receipt = follow(&fleet, 7, Wait::Fleet, TIMEOUT).await;
            assert!(!receipt.reached, "{name}");
            assert_eq!(receipt.pending, [Box::from(name)]);
            assert_eq!(receipt.applied, (1, of));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_patience_of_the_fleet_counts() {
        let (fleet, hand) = scene();
        hand.relayed.send_replace(relayed(7, "s", 6));
        let mut members = vec![member("a", "s", 6), member("b", "s", 6)];
        members[1].max_staleness = Duration::from_millis(40_001);
        let _answering = answer(hand, vec![members]);
        let receipt = follow(&fleet, 7, Wait::Relay, TIMEOUT).await;
        assert_eq!(receipt.effective_by, Some(UnixSeconds(142)));
    }

    #[tokio::test(start_paused = true)]
    async fn in_another_run_the_target_is_another() {
        let (fleet, mut hand) = scene();
        hand.relayed.send_replace(relayed(7, "s", 6));
        let playing = tokio::spawn(async move {
            let first = hand.asked.recv().await.expect("a question");
            // The server was replaced by one whose clock is behind; the change was published again.
            hand.relayed.send_replace(relayed(7, "new", 2));
            let _ = first.send(vec![member("b", "s", 6)]);
            let second = hand.asked.recv().await.expect("another question");
            let _ = second.send(vec![member("b", "new", 2)]);
            hand
        });
        let receipt = follow(&fleet, 7, Wait::Fleet, TIMEOUT).await;
        assert!(receipt.reached, "{receipt:?}");
        drop(playing.await.expect("no panic"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_around_counts_what_others_wrote() {
        let (fleet, hand) = scene();
        hand.relayed.send_replace(relayed(7, "s", 6));
        hand.show(View {
            run: run("s"),
            applied: id(8),
            last: id(9),
            ..View::default()
        });
        let members = vec![
            member("a", "s", 8),
            member("b", "s", 8),
            member("c", "s", 9),
        ];
        let _answering = answer(hand, vec![members]);
        let now = look(&fleet, 7, Duration::from_millis(100)).await;
        assert!(now.relayed && !now.reached);
        assert_eq!((now.applied, now.pending), ((2, 3), vec![Box::from("b")]));
        let ahead = look(&fleet, 8, Duration::from_millis(100)).await;
        assert!(!ahead.relayed, "a change of ours is not in the stream");
        assert_eq!(ahead.applied, (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_went_away_leaves_what_was_known() {
        let (fleet, mut hand) = scene();
        hand.relayed.send_replace(relayed(7, "s", 6));
        let playing = tokio::spawn(async move {
            while let Some(question) = hand.asked.recv().await {
                drop(question);
            }
        });
        let receipt = follow(&fleet, 7, Wait::Fleet, TIMEOUT).await;
        assert!(!receipt.reached && receipt.relayed);
        assert_eq!(receipt.pending, [Box::from("b")]);
        playing.abort();
    }
}
