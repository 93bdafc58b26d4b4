use proptest::prelude::*;

use super::*;
use mq::driver::Page;
use mq::{Headers, MessageId};

fn line(message: &Message) -> String {
    serde_json::to_string(&MessageLine::new("orders", message)).unwrap()
}

fn read(line: &[u8]) -> Message {
    parse(line).unwrap().now()
}

fn value(message: &Message) -> serde_json::Value {
    serde_json::from_str(&line(message)).unwrap()
}

#[test]
fn every_field_is_there() {
    let message = Message::with_id("hello", "m-1").key("k").subject("a.b").header("h", "v");
    let expected = serde_json::json!({
        "id": "m-1", "topic": "orders", "key": "k", "subject": "a.b", "headers": [["h", "v"]],
        "content_type": null, "body": "hello", "published_at": null,
    });
    assert_eq!(value(&message), expected);
}

#[test]
fn a_body_is_json_text_or_base64() {
    let json = |payload: &'static [u8]| {
        value(&Message::new(payload).content_type("application/json; charset=utf-8"))
    };
    assert_eq!(json(b"{\"a\":[1,\n2]}")["body"], serde_json::json!({"a": [1, 2]}));
    assert_eq!(json(b"null").get("body"), Some(&serde_json::Value::Null));
    assert_eq!(json(b"{no")["body_base64"], "e25v");
    assert_eq!(value(&Message::new("{\"a\":1}"))["body"], "{\"a\":1}");
    assert_eq!(value(&Message::new(vec![0xff]))["body_base64"], "/w==");
}

#[test]
fn json_keeps_its_digits() {
    let text = "{\"big\":123456789012345678901234567890,\"one\":1.0}";
    let message = Message::new(text).content_type(mq::JSON);
    assert!(line(&message).contains(&format!("\"body\":{text}")));
    assert_eq!(read(line(&message).as_bytes()).payload, text);
}

#[test]
fn an_undeclared_body_that_is_no_text_is_json() {
    let message = read(br#"{"body":{"a":1}}"#);
    assert_eq!((&*message.payload, message.content_type.as_deref()), (&b"{\"a\":1}"[..], Some(mq::JSON)));
    let message = read(br#"{"body":"{}"}"#);
    assert_eq!((&*message.payload, message.content_type.as_deref()), (&b"{}"[..], None));
}

#[test]
fn wrong_lines_say_what_is_wrong() {
    for (line, says) in [
        ("", "EOF while parsing"),
        ("{\"body\":\"x\"", "column 11"),
        ("[1]", "invalid"),
        ("{\"bdy\":1}", "unknown field `bdy`, expected one of `id`"),
        ("{\"body\":1,\"expires\":\"1s\"}", "unknown field `expires`"),
        ("{\"key\":\"k\"}", "no body"),
        ("{\"body\":1,\"body_base64\":\"\"}", "exclude each other"),
        ("{\"body\":1,\"content_type\":\"text/plain\"}", "must be a string"),
        ("{\"body_base64\":\"?\"}", "does not decode"),
        ("{\"body\":\"\",\"key\":7}", "expected a string or {\"base64\""),
        ("{\"body\":\"\",\"headers\":{\"a\":\"b\"}}", "expected a sequence"),
        ("{\"body\":\"\",\"delay\":\"soon\"}", "is not a duration"),
        ("{\"body\":\"\",\"deliver_at\":\"soon\"}", "RFC 3339"),
        ("{\"body\":\"\",\"delay\":\"1s\",\"deliver_at\":\"2030-01-01T00:00:00Z\"}", "exclude each other"),
    ] {
        let error = parse(line.as_bytes()).unwrap_err();
        assert!(error.contains(says), "{line}: {error}");
    }
    assert_eq!(id_of(br#"{"id":"a","body":1,"no":2}"#).as_deref(), Some("a"));
    assert_eq!(id_of(b"{"), None);
}

#[test]
fn times_hold_a_message_back() {
    let at = read(br#"{"body":"","deliver_at":"2030-01-01T00:00:00Z"}"#).deliver_at;
    assert_eq!(at.map(rfc3339).as_deref(), Some("2030-01-01T00:00:00.000Z"));
    let draft = parse(br#"{"body":"","delay":"1h"}"#).unwrap();
    assert_eq!(draft.message.deliver_at, None);
    assert!(draft.now().deliver_at.unwrap() > now());
}

/// Makes a delivery and a dead letter, and publishes their lines again.
#[tokio::test]
async fn what_was_received_reads_back() {
    let client = mq::connect("memory://").await.unwrap();
    let inbox = client.subscriber("orders", "billing").open().await.unwrap();
    let sent = Message::new("x").key("k").content_type("text/plain");
    client.publisher("orders").await.unwrap().send(sent.clone()).await.unwrap();

    let delivery = inbox.receive().await.unwrap();
    let received = Received::from(&delivery);
    let line = serde_json::to_vec(&received.line("orders", "dead-letter")).unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(
        (&seen["attempt"], &seen["redelivered"], &seen["settled"]),
        (&1.into(), &false.into(), &"dead-letter".into())
    );
    assert!(seen["published_at"].is_string() && seen["received_at"].is_string());
    assert_eq!(read(&line), sent);

    delivery.dead_letter("poison").await.unwrap();
    let (topic, group) = ("orders".try_into().unwrap(), "billing".try_into().unwrap());
    let page = Page { offset: 0, limit: 10 };
    let letters = client.admin().dead_letters(&topic, &group, page).await.unwrap();
    let line = serde_json::to_vec(&DeadLine::new("orders", "billing", &letters[0])).unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((&seen["dead_reason"], &seen["attempts"]), (&"poison".into(), &1.into()));
    assert!(seen["dead_at"].is_string() && seen["first_seen_at"].is_string());
    assert_eq!(read(&line), sent);
}

proptest! {
    #[test]
    fn any_message_reads_back(
        payload in any::<Vec<u8>>(),
        text in any::<String>(),
        is_text in any::<bool>(),
        key in any::<Option<Vec<u8>>>(),
        subject in any::<Option<String>>(),
        id in any::<String>(),
        content_type in proptest::option::of(prop_oneof!["application/json", "text/plain", "a/b\\+json", ".*"]),
        headers in proptest::collection::vec((any::<String>(), any::<Vec<u8>>()), 0..4),
    ) {
        let payload = if is_text { text.into_bytes() } else { payload };
        let mut message = Message::with_id(payload, MessageId::from(id));
        message.key = key.map(Bytes::from);
        message.subject = subject.map(Into::into);
        message.content_type = content_type.map(Into::into);
        message.headers = headers.into_iter().collect::<Headers>();
        let line = line(&message);
        prop_assert!(!line.contains('\n'));
        let mut read = read(line.as_bytes());
        if read.payload != message.payload {
            // Only the white space around and within JSON may differ.
            let value = |payload: &[u8]| serde_json::from_slice::<serde_json::Value>(payload).unwrap();
            prop_assert_eq!(value(&read.payload), value(&message.payload));
            read.payload = message.payload.clone();
        }
        prop_assert_eq!(read, message);
    }
}
