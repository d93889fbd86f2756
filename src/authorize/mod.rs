//! (authorize)
