//! Tests of what is asked when, with a service that answers nothing.

use fltport::{Client, ServerPort};

use super::*;
use crate::cache::CacheMode;
use crate::judge::Surge;
use crate::policy::Policies;

#[test]
fn a_suspect_that_nobody_needs_any_more_holds_nobody_up() {
    let judge = Judge::new("test".to_owned(), Policies::lenient(), Surge::Never);
    let cache = Arc::new(Cache::new(CacheMode::Off, Vec::new()));
    let ask = Ask::new(judge, Duration::ZERO, cache).unwrap();
    let port = ServerPort::unnamed().listen(ask.handler(None)).unwrap();
    let client = Client::from_fd(port.offer().unwrap(), b"").unwrap();
    let add = |inode, suspect| {
        let mut question = Question::about(inode, false);
        question.suspect = suspect;
        let token = ask.shared.lock().add(question, true);
        ask.shared.pump();
        token
    };
    add(1, false);
    let suspect = add(2, true);
    add(3, false);
    // The suspect waits until it is alone, and whoever came later waits for it.
    assert_eq!(ask.load(), (1, 1, 2));
    ask.withdraw(suspect);
    assert_eq!(ask.load(), (1, 2, 0));
    ask.stop();
    drop(client);
}
