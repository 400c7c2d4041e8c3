use super::*;
use futures::FutureExt;

fn holder() -> Holder {
    Holder { connection: Arc::new(Activity::new()), pace: Pace::default() }
}

fn granted(asked: Asked) -> Place {
    match asked {
        Asked::Granted(place) => place,
        Asked::Wait(_) => panic!("it has to wait"),
    }
}

fn waits(asked: Asked) -> tokio::sync::oneshot::Receiver<Place> {
    match asked {
        Asked::Granted(_) => panic!("it was granted"),
        Asked::Wait(told) => told,
    }
}

#[test]
fn a_place_is_held_until_its_last_byte_is_gone() {
    let pool = Arc::new(Pool::new(100));
    let place = granted(pool.ask(holder(), 60));
    let bytes = place.hand(Bytes::from_static(b"page"));
    drop(place);
    assert_eq!((pool.used(), &bytes[..]), (60, &b"page"[..]));
    let part = bytes.slice(1..2);
    drop(bytes);
    assert_eq!(pool.used(), 60);
    drop(part);
    assert_eq!(pool.used(), 0);
}

#[test]
fn in_turn_and_nobody_overtakes() {
    let pool = Arc::new(Pool::new(100));
    let first = granted(pool.ask(holder(), 60));
    let mut large = waits(pool.ask(holder(), 1000));
    let gone = waits(pool.ask(holder(), 10));
    let mut small = waits(pool.ask(holder(), 10));
    drop(gone);
    assert_eq!(pool.waiting(), 2);
    assert!((&mut small).now_or_never().is_none(), "there would be room, but it is not its turn");
    drop(first);
    let large = (&mut large).now_or_never().expect("told").expect("a place");
    assert_eq!(pool.used(), 100);
    assert!((&mut small).now_or_never().is_none());
    drop(large);
    drop((&mut small).now_or_never().expect("told").expect("a place"));
    assert_eq!((pool.used(), pool.waiting()), (0, 0));
}

#[test]
fn the_latest_of_the_late_give_way_to_those_who_wait() {
    let places = Places::new(&Limits::default());
    let size = places.large.used() + Limits::default().memory * 5 / 12;
    let (slow, slower, fast) = (holder(), holder(), holder());
    let now = now();
    slow.pace.waits(now - 2000);
    slower.pace.waits(now - 3000);
    let slowest = slower.connection.clone();
    let _held: Vec<_> =
        [slow, slower, fast].map(|holder| granted(places.large.ask(holder, size / 3))).into_iter().collect();
    assert!(places.late(now, 60_000, 1000).is_empty(), "nobody waits");
    assert_eq!(places.late(now, 2500, 1000).len(), 1);
    let _waiting = waits(places.large.ask(holder(), size / 3));
    let late = places.late(now, 60_000, 1000);
    assert_eq!(late.len(), 1, "one waits, one has to go");
    assert!(Arc::ptr_eq(&late[0].connection, &slowest) && late[0].for_others);
    // What is small has room of its own.
    granted(places.small.ask(holder(), 4096));
}
