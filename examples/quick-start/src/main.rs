//! One embedded replica, file-backed: the snippet of the README.

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = d_engine::start("./data").await?;
    node.put("k", "v").await?;
    let value = node.get("k").await?;
    assert_eq!(value.as_deref(), Some("v".as_bytes()));
    node.shutdown().await?;
    Ok(())
}
