//! Remembers which tokens were signed by which key, and nothing else: times, audience, denylist and policy are asked
//! on every request, and an entry counts for nothing once its key is gone.

use std::fmt;
use std::sync::Arc;

use moka::sync::Cache;

/// What is asked for, strangers choose; what stands in the table, they do not: only tokens with a good signature get in. So
/// a hash that is seeded anew in each process is enough, though this one promises nothing against who can measure it. The
/// whole of a long token is hashed on every request: `SipHash` took half of the decision.
type Hasher = foldhash::quality::RandomState;

type Token = Box<[u8]>;

/// Verified tokens by their whole text, bounded in bytes.
pub struct TokenCache<V> {
    entries: Cache<Token, Arc<V>, Hasher>,
}

/// moka's own cost of an entry, measured by nobody, estimated from its fields: key and value pointers, two queue nodes,
/// an entry record.
const ENTRY_OVERHEAD_BYTES: usize = 300;

impl<V: Send + Sync + 'static> TokenCache<V> {
    /// A cache that holds at most `bytes`; `weigh` tells how many bytes a value holds.
    pub fn new(bytes: u64, weigh: impl Fn(&V) -> usize + Send + Sync + 'static) -> Self {
        Self {
            entries: Cache::builder()
                .max_capacity(bytes)
                .weigher(move |token: &Token, value: &Arc<V>| {
                    let size = token.len() + weigh(value) + ENTRY_OVERHEAD_BYTES;
                    u32::try_from(size).unwrap_or(u32::MAX)
                })
                .build_with_hasher(Hasher::default()),
        }
    }

    /// What is known of a token.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<Arc<V>> {
        self.entries.get(token.as_bytes())
    }

    /// Remembers a token.
    pub fn remember(&self, token: &str, value: Arc<V>) {
        self.entries.insert(token.as_bytes().into(), value);
    }

    /// About how many tokens are remembered.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.entry_count()
    }

    /// About how many bytes they take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.weighted_size()
    }
}

impl<V> fmt::Debug for TokenCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").finish_non_exhaustive()
    }
}
