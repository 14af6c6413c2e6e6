//! Which seeds, by the environment:
//!
//! | variable | means |
//! |---|---|
//! | `YAKT_SEED` or `MADSIM_TEST_SEED` | exactly this seed |
//! | `YAKT_SEEDS` | how many seeds a scenario |
//! | `YAKT_SEED_BASE` | the first of them |

use std::env;

/// A row of seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// The first.
    pub base: u64,
    /// How many. Beyond the largest number they go on at 0.
    pub count: u64,
}

impl Seeds {
    /// What the environment asks for, else `count` seeds from 1 on.
    ///
    /// # Panics
    ///
    /// When a variable is set to something that is no number: running something else would be worse.
    #[must_use]
    pub fn from_env(count: u64) -> Self {
        Self::from_variables(count, |name| env::var(name).ok())
    }

    fn from_variables(count: u64, variable: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name: &str| {
            let text = variable(name)?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
        };
        if let Some(base) = number("YAKT_SEED").or_else(|| number("MADSIM_TEST_SEED")) {
            return Self { base, count: 1 };
        }
        Self {
            base: number("YAKT_SEED_BASE").unwrap_or(1),
            count: number("YAKT_SEEDS").unwrap_or(count),
        }
    }

    /// The first `count` of them, or all if they are fewer.
    #[must_use]
    pub fn at_most(self, count: u64) -> Self {
        Self { count: self.count.min(count), ..self }
    }

    /// The one at this place, counting from 0.
    #[must_use]
    pub fn at(&self, place: u64) -> u64 {
        self.base.wrapping_add(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(variables: &[(&str, &str)]) -> Seeds {
        Seeds::from_variables(30, |wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_picks_the_seeds() {
        assert_eq!(seeds(&[]), Seeds { base: 1, count: 30 });
        assert_eq!(seeds(&[("YAKT_SEEDS", "5")]), Seeds { base: 1, count: 5 });
        let both = [("YAKT_SEEDS", "5"), ("YAKT_SEED_BASE", "100")];
        assert_eq!(seeds(&both), Seeds { base: 100, count: 5 });
    }

    #[test]
    fn one_seed_wins_over_many() {
        let one = Seeds { base: 7, count: 1 };
        assert_eq!(seeds(&[("YAKT_SEED", "7"), ("YAKT_SEEDS", "5")]), one);
        assert_eq!(seeds(&[("MADSIM_TEST_SEED", "7"), ("YAKT_SEED_BASE", "3")]), one);
    }

    #[test]
    #[should_panic(expected = "YAKT_SEED=seven is not a number")]
    fn a_seed_that_is_no_number_is_refused() {
        seeds(&[("YAKT_SEED", "seven")]);
    }

    #[test]
    fn seeds_go_on_at_zero() {
        let seeds = Seeds { base: u64::MAX, count: 2 };
        assert_eq!((seeds.at(0), seeds.at(1)), (u64::MAX, 0));
    }
}
