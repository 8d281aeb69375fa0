//! What the wire alone costs; run with `cargo test --release -p d-engine-net -- --ignored --nocapture throughput`.

use bytes::Bytes;
use tokio::time::Instant;

use super::fake::FakeServer;
use crate::{Client, ClientOptions};

#[test]
#[ignore = "measures; run by hand on a quiet machine"]
fn throughput_of_client_and_server_without_consensus() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = FakeServer::start().await;
        let client =
            Client::with_options([server.address.clone()], ClientOptions::default().without_session()).unwrap();
        for tasks in [1, 64, 1000] {
            let (puts, gets) = (rate(&client, tasks, true).await, rate(&client, tasks, false).await);
            println!("{tasks:5} tasks: {puts:9.0} puts/s, {gets:9.0} gets/s");
        }
        server.stop().await;
    });
}

async fn rate(client: &Client, tasks: usize, write: bool) -> f64 {
    let calls = if tasks == 1 { 20_000 } else { 200_000 } / tasks;
    let value = Bytes::from(vec![7; 256]);
    let since = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let (client, value) = (client.clone(), value.clone());
            tokio::spawn(async move {
                let key = Bytes::from(format!("{task:08}"));
                for _ in 0..calls {
                    if write {
                        client.put(key.clone(), value.clone()).await.unwrap();
                    } else {
                        client.get(key.clone()).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for task in running {
        task.await.unwrap();
    }
    (calls * tasks) as f64 / since.elapsed().as_secs_f64()
}
