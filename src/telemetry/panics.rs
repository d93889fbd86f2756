//! Panics: each is a defect of ours. It ends the task in which it happens, which may go unnoticed, so it is counted and
//! logged. Its text may quote what a client sent; the log has it on the level debug alone.

use std::any::Any;
use std::panic::PanicHookInfo;

use prometheus::IntCounter;

/// Counts every panic of the process from here on, in place of what was done about panics before.
pub fn count(counter: IntCounter) {
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        counter.inc();
        let place = info.location().map(tracing::field::display);
        tracing::error!(
            place,
            "a defect of jotgate ended a connection, a request or a task; please report it"
        );
        tracing::debug!(text = text(info.payload()), "what the panic said");
    }));
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    let fixed = payload.downcast_ref::<&str>().copied();
    fixed.or_else(owned).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_any_thread_is_counted() {
        let counter = IntCounter::new("panics", "Panics.").unwrap();
        let before = std::panic::take_hook();
        count(counter.clone());
        let ended = std::thread::spawn(|| panic!("on purpose")).join();
        std::panic::set_hook(before);
        let payload = ended.expect_err("it panicked");
        assert_eq!(text(&*payload), "on purpose");
        // Other tests of this process may panic on purpose, too.
        assert!(counter.get() >= 1);
    }
}
