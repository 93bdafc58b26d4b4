async fn handler() {
    let held = std::rc::Rc::new(1);
    std::future::ready(()).await;
    drop(held);
}

fn main() {}

fn worker(client: &mq_core::Client) -> mq_worker::Worker {
    mq_worker::Worker::new(client, "g").on("orders", handler)
}
