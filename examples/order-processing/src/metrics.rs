//! What an operator sees of a run.

use anyhow::Result;
use mq::Client;
use mq::observe::{Endpoint, Observer, Serving};

/// Serves metrics and health at `address`, if there is one.
pub(crate) async fn serve(client: &Client, address: Option<&str>) -> Result<Option<Serving>> {
    let Some(address) = address else { return Ok(None) };
    let observer = Observer::builder(client).every(std::time::Duration::from_secs(2)).start()?;
    let serving = Endpoint::new(&observer).bind(address).await?;
    eprintln!("metrics at http://{}/metrics", serving.address());
    Ok(Some(serving))
}
