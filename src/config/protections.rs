//! Numbers for what routes ask, equal where they ask the same: so that whoever compares routes compares numbers, and what many routes
//! have in common is made once.

use std::collections::HashMap;
use std::sync::Arc;

use super::settings::Route;
use crate::base::names::IssuerName;
use crate::policy::{Auth, Mode, Requirement};

/// Hands out numbers from 0 upwards, in the order of asking.
#[derive(Debug, Default)]
pub struct Protections {
    /// Routes that name no issuer have one list in common, which is known by its place in memory: to read 5,000 names for each of
    /// 10,000 routes would take seconds. Holds the lists, so that no place is used twice.
    by_place: HashMap<*const IssuerName, (Arc<[IssuerName]>, usize)>,
    by_names: HashMap<Arc<[IssuerName]>, usize>,
    numbers: HashMap<(Auth, Mode, usize, Requirement), u32>,
}

impl Protections {
    /// The number of the route's list of issuers, and that of all it asks.
    pub fn number(&mut self, route: &Route) -> (usize, u32) {
        let list = self.list(&route.issuers);
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        let asked = (route.auth, route.mode, list, route.requirement.clone());
        (list, *self.numbers.entry(asked).or_insert(next))
    }

    fn list(&mut self, names: &Arc<[IssuerName]>) -> usize {
        if let Some((same, number)) = self.by_place.get(&names.as_ptr())
            && same.len() == names.len()
        {
            return *number;
        }
        let next = self.by_names.len();
        let number = *self.by_names.entry(Arc::clone(names)).or_insert(next);
        self.by_place
            .insert(names.as_ptr(), (Arc::clone(names), number));
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_str;

    #[test]
    fn routes_that_ask_the_same_have_one_number_and_their_lists_one() {
        let text = r#"
            [[listeners]]
            address = "127.0.0.1:0"
            [[issuers]]
            name = "a"
            issuer = "https://a.example.com"
            audiences = ["x"]
            [[issuers]]
            name = "b"
            issuer = "https://b.example.com"
            audiences = ["x"]
        "#;
        let routes = [
            "",
            "issuers = [\"a\"]",
            "issuers = [\"a\", \"b\"]",
            "issuers = [\"a\"]",
            "issuers = [\"a\"]\nscopes = [\"s\"]",
            "issuers = [\"a\"]\nmode = \"report\"",
            "issuers = [\"a\"]\nauth = \"optional\"",
            "",
        ];
        let routes = routes.iter().enumerate().map(|(number, lines)| {
            format!(
                "[[routes]]\npath = \"/{number}\"\nupstream = \"http://127.0.0.1:1\"\n{lines}\n"
            )
        });
        let text = format!("{text}\n{}", routes.collect::<String>());
        let settings = load_str("test.toml", &text, &[]).expect("a good file");
        let mut protections = Protections::default();
        let numbers: Vec<_> = settings
            .routes
            .iter()
            .map(|route| protections.number(route))
            .collect();
        assert_eq!(
            numbers,
            [
                (0, 0),
                (1, 1),
                (0, 0),
                (1, 1),
                (1, 2),
                (1, 3),
                (1, 4),
                (0, 0)
            ],
            "whether all are named, or nobody, is one list"
        );
    }
}
