#[rustfmt::skip]
async fn handler(
    _: mq_worker::Id, _: mq_worker::Id, _: mq_worker::Id, _: mq_worker::Id, _: mq_worker::Id,
    _: mq_worker::Id, _: mq_worker::Id, _: mq_worker::Id, _: mq_worker::Id,
) {
}

fn main() {}

fn worker(client: &mq_core::Client) -> mq_worker::Worker {
    mq_worker::Worker::new(client, "g").on("orders", handler)
}
