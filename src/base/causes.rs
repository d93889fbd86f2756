//! What lies beneath an error: most libraries' own words say only which of their steps failed.

use std::error::Error;
use std::{fmt, iter};

/// The error and everything beneath it, from the top.
pub fn causes<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    iter::successors(Some(error), |&error: &&'e (dyn Error + 'static)| {
        error.source()
    })
}

/// The innermost reason.
#[must_use]
pub fn root_cause<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

/// The words of all of them: `client error (Connect): tcp connect error: refused`.
#[derive(Debug)]
pub struct Causes<'e>(pub &'e (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        causes(self.0)
            .skip(1)
            .try_for_each(|cause| write!(f, ": {cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("layer {layer}")]
    struct Layer {
        layer: u8,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn every_layer_is_told_and_the_last_one_is_the_reason() {
        let over = |layer, beneath| Layer {
            layer,
            source: beneath,
        };
        let error = over(1, Some(over(2, Some(over(3, None).into())).into()));
        assert_eq!(Causes(&error).to_string(), "layer 1: layer 2: layer 3");
        assert_eq!(root_cause(&error).to_string(), "layer 3");
        let alone = over(1, None);
        assert_eq!(Causes(&alone).to_string(), "layer 1");
        assert_eq!(root_cause(&alone).to_string(), "layer 1");
    }
}
