use mq_core::envelope::{Envelope, InPlace};

use super::*;

fn chunk(ownership: Ownership, offsets: std::ops::Range<u64>) -> Chunk {
    let (lane, epoch) = ownership;
    let message = |high| {
        Arc::new(Incoming {
            token: Token { lane, epoch, high, low: 0 },
            subscription: 0,
            message: InPlace::blank(),
            envelope: Envelope::default(),
            redelivered: false,
            suspect: None,
            not_before: None,
            position: None,
        })
    };
    Chunk::new(lane, epoch, offsets.map(message).collect(), 1)
}

fn confirm(books: &mut Books) {
    while let Some(commit) = books.commit() {
        books.confirm(&commit, &[]);
    }
}

#[test]
fn what_no_commit_reserved_is_not_handed_out() {
    let all = Budget { messages: 100, bytes: 1000 };
    let mut books = Books::new(all);
    let lane = (0, books.own(0, Tracker::resume(0, "")));
    books.add(chunk(lane, 0..2));
    assert!(books.take(all).unwrap().is_none());
    confirm(&mut books);
    books.add(chunk(lane, 2..3));
    assert_eq!(books.take(all).unwrap().unwrap().deliveries.len(), 2);
    assert!(books.take(all).unwrap().is_none());
}

#[test]
fn who_asks_waits_for_the_broker_alone() {
    let mut books = Books::new(Budget { messages: 100, bytes: 1000 });
    let lane = (0, books.own(0, Tracker::resume(0, "")));
    let token = Token { lane: lane.0, epoch: lane.1, high: 0, low: 0 };
    let (mut asked, mut acked) =
        (books.ask([&token, &token].into_iter()).unwrap(), books.wait_for(vec![lane], true));
    let mut commit = books.commit().expect("it asks though nothing changed");
    commit.lanes[0].snapshot.complete = false;
    books.confirm(&commit, &[]);
    assert_eq!(asked.try_recv(), Ok(Vec::new()), "the member has its lane");
    assert!(acked.try_recv().is_err(), "a settlement waits until it is covered");

    let mut asked = books.ask([&token].into_iter()).unwrap();
    books.lose(lane.0);
    assert_eq!(asked.try_recv(), Ok(vec![lane]));
    assert!(books.ask([&token].into_iter()).is_none(), "nothing to ask: it is stale");
}
