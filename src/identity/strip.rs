//! The names that only jotgate may write.
