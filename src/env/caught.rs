//! Panics that this program expects and survives.
//!
//! The storage engine asserts some properties of the file that it reads. [`catch_panic`] turns such
//! a panic into a value. The panic hook of a program runs before that, so it needs to know which
//! panics will be caught: [`panics_are_caught`] says so. The `yakt` binary ends the process after
//! any other panic.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// Number of calls of [`catch_panic`] that this thread is in.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// One call of [`catch_panic`]. Its end is counted during unwinding, too.
struct Inside;

impl Inside {
    fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Runs `work`, and returns the message of its panic as an error.
///
/// The caller must not reuse data that the panic left half changed.
///
/// ```
/// use yakt::env::catch_panic;
///
/// assert_eq!(catch_panic(|| 7), Ok(7));
/// let outcome = catch_panic(|| -> u32 { panic!("page {} is no page", 7) });
/// assert_eq!(outcome, Err("page 7 is no page".to_owned()));
/// ```
///
/// # Errors
///
/// The message of the panic.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _inside = Inside::enter();
        work()
    }));
    caught.map_err(|panic| panic_message(&*panic).to_owned())
}

/// Whether a panic of the current thread would be caught by [`catch_panic`].
#[must_use]
pub fn panics_are_caught() -> bool {
    DEPTH.get() > 0
}

/// The message of a panic, from its payload.
#[must_use]
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_expected_inside_only() {
        assert!(!panics_are_caught());
        assert_eq!(catch_panic(panics_are_caught), Ok(true));
        assert!(catch_panic(|| -> () { panic!("out") }).is_err());
        assert!(!panics_are_caught());
    }

    #[test]
    fn an_inner_call_leaves_the_outer_one_in_force() {
        let outer = catch_panic(|| {
            assert!(catch_panic(|| -> () { panic!("in") }).is_err());
            panics_are_caught()
        });
        assert_eq!(outer, Ok(true));
    }
}
