//! d-engine: three nodes on the file engine in this process, which talk over gRPC; called in process, and by a client.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use cluster_bench::{Api, Cluster, Engine, Target, Works};
use d_engine_load::{Load, Round};

use super::Data;
use crate::alternate::{Subject, Work};
use crate::log::Result;
use crate::peers::locked_version;

/// One way to call the three nodes.
struct Ours {
    name: &'static str,
    target: Arc<Target>,
    /// Of both ways; the last one stops it.
    cluster: Rc<RefCell<Option<Cluster>>>,
}

/// Both ways to call one cluster.
pub async fn start(dir: &Path, data: Data) -> Result<Vec<Box<dyn Subject>>> {
    let cluster = Cluster::start(dir, Engine::File).await?;
    let targets = [("d-engine in process", Api::Embedded), ("d-engine over gRPC", Api::Grpc)].map(|(name, api)| {
        Ok::<_, Box<dyn std::error::Error>>((name, cluster.target(api, data.keys, data.value_bytes)?))
    });
    let cluster = Rc::new(RefCell::new(Some(cluster)));
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    for target in targets {
        let (name, target) = target?;
        subjects.push(Box::new(Ours { name, target: Arc::new(target), cluster: Rc::clone(&cluster) }));
    }
    Ok(subjects)
}

/// What `cluster_bench` calls it.
pub fn works(work: Work) -> Works {
    match work {
        Work::Put => Works::Put,
        Work::Get => Works::Get,
        Work::GetLease => Works::GetLease,
        Work::GetLocal => Works::GetLocal,
    }
}

#[async_trait(?Send)]
impl Subject for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> String {
        let version = locked_version("d-engine", "0.3").unwrap_or("of this tree");
        format!("{version}, file engine; acknowledged: synced on a majority")
    }

    fn can(&self, _: Work) -> bool {
        true
    }

    async fn fill(&mut self) -> Result<()> {
        self.target.fill().await
    }

    async fn round(&self, work: Work, load: &Load) -> Result<Round> {
        let target = Arc::clone(&self.target);
        let call = move |random| {
            let target = Arc::clone(&target);
            async move { target.call(works(work), random).await }
        };
        load.round(call).await
    }

    async fn stop(self: Box<Self>) -> Result<()> {
        let cluster = if Rc::strong_count(&self.cluster) == 1 { self.cluster.borrow_mut().take() } else { None };
        match cluster {
            Some(cluster) => cluster.stop().await,
            None => Ok(()),
        }
    }
}
