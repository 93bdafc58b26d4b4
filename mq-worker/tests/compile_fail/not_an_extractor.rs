async fn handler(text: String) {
    drop(text);
}

fn main() {}

fn worker(client: &mq_core::Client) -> mq_worker::Worker {
    mq_worker::Worker::new(client, "g").on("orders", handler)
}
