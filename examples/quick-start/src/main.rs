//! One embedded replica, file-backed: the snippet of the README.

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = d_engine::start("./data").await?;
    node.put("k", "v").await?;
    let got = node.get("k").await?;
    assert_eq!(got.value.as_deref(), Some(&b"v"[..]));
    node.shutdown().await?;
    Ok(())
}
