//! What is asked how often.

use std::str::FromStr;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Creates a topic.
    Write,
    /// Finds a topic by its name.
    Read,
    /// Polls `broker_mgmt` for what has changed.
    Mgmt,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Write, Self::Read, Self::Mgmt];

    /// As it is called in `--mix`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Write => "writes",
            Self::Read => "reads",
            Self::Mgmt => "mgmt",
        }
    }
}

/// Relative frequencies of the kinds, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mix([u32; 3]);

impl Mix {
    pub(super) const WRITES: Self = Self([1, 0, 0]);

    /// Whether there is any of `kind`.
    pub(super) fn has(self, kind: Kind) -> bool {
        Kind::ALL.into_iter().zip(self.0).any(|(other, weight)| other == kind && weight > 0)
    }

    /// The kind of the `nth` request: in turn, so that even a short run has the mix that was asked for.
    pub(super) fn nth(self, nth: u64) -> Kind {
        let total = self.0.iter().map(|weight| u64::from(*weight)).sum::<u64>();
        let mut ticket = nth % total;
        for (kind, weight) in Kind::ALL.into_iter().zip(self.0) {
            match ticket.checked_sub(u64::from(weight)) {
                Some(left) => ticket = left,
                None => return kind,
            }
        }
        Kind::Write
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights = [0; 3];
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').ok_or("must be KIND=WEIGHT,…")?;
            let kind = Kind::ALL.iter().position(|kind| kind.name() == name);
            let kind = kind.ok_or_else(|| format!("{name} is none of writes, reads, mgmt"))?;
            weights[kind] =
                weight.parse().map_err(|_| format!("{weight} is no weight: a number"))?;
        }
        if weights.iter().all(|weight| *weight == 0) {
            return Err("nothing would be asked".to_owned());
        }
        Ok(Self(weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_has_each_kind_as_often_as_it_says() {
        let mix: Mix = "reads=3,writes=1".parse().unwrap();
        let kinds: Vec<_> = (0..8).map(|nth| mix.nth(nth)).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == Kind::Read).count(), 6);
        assert_eq!(kinds.iter().filter(|kind| **kind == Kind::Write).count(), 2);
        assert_eq!(Mix::WRITES.nth(7), Kind::Write);
    }

    #[test]
    fn what_is_no_mix_is_refused() {
        for bad in ["", "writes", "writes=", "writes=-1", "write=1", "writes=0,reads=0"] {
            assert!(bad.parse::<Mix>().is_err(), "{bad}");
        }
    }
}
