//! What is revoked: rules, and the index that requests read. The one writer is `control/denylist`.
