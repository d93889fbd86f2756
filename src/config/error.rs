//! What is wrong with a configuration: every fault with its place and its cure.

use std::fmt;

/// One fault: where, what is wrong, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The configuration file.
    pub file: String,
    /// Its line, counted from 1. None when nothing in the file is to blame, but something that is not in it.
    pub line: Option<usize>,
    /// The environment variable that the value came from, instead of a line.
    pub variable: Option<String>,
    /// The key: `issuers[0].refresh`. Empty: the file as a whole.
    pub path: String,
    /// What is wrong and what to write. Never holds a secret.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.variable, self.line) {
            (Some(variable), _) => write!(f, "{variable}: ")?,
            (None, Some(line)) => write!(f, "{}:{line}: ", self.file)?,
            (None, None) => write!(f, "{}: ", self.file)?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)
    }
}

/// Every fault of a configuration, in the order of the file; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// In the order of the file, those of the environment last.
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| {
            (&a.variable, a.line)
                .cmp(&(&b.variable, b.line))
                .then_with(|| a.path.cmp(&b.path))
        });
        faults.dedup();
        Self(faults)
    }

    /// One after the other.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: Option<usize>, variable: Option<&str>, path: &str) -> Fault {
        Fault {
            file: "orders.toml".to_owned(),
            line,
            variable: variable.map(str::to_owned),
            path: path.to_owned(),
            what: "is missing".to_owned(),
        }
    }

    #[test]
    fn each_fault_is_one_line_in_the_order_of_the_file() {
        let faults = Faults::new(vec![
            fault(None, Some("JOTGATE__WORKERS"), "workers"),
            fault(Some(12), None, "issuers[0].refresh"),
            fault(Some(3), None, ""),
            fault(None, None, "routes"),
        ]);
        assert_eq!(
            faults.to_string(),
            "orders.toml: routes: is missing\n\
             orders.toml:3: is missing\n\
             orders.toml:12: issuers[0].refresh: is missing\n\
             JOTGATE__WORKERS: workers: is missing"
        );
    }
}
