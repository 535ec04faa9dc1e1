//! What would be written twice.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::logical_expr::{LogicalPlan, WriteOp};
use datafusion::optimizer::AnalyzerRule;

/// Refuses to write files whose names DataFusion makes up. Where an executor dies its tasks begin anew, and would write rows
/// under other names that are there already. A file of one name is replaced as a whole.
#[derive(Debug)]
pub(super) struct OneFile;

impl AnalyzerRule for OneFile {
    fn name(&self) -> &str {
        "one_file"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply(|node| {
            match node {
                LogicalPlan::Copy(copy) if !is_one_file(copy) => {
                    return plan_err!(
                        "COPY TO '{}': on a cluster it has to be one file, such as 'vectors.parquet'; of a folder's files \
                         some would be there twice after an executor's death",
                        copy.output_url
                    );
                }
                LogicalPlan::Dml(write) if matches!(write.op, WriteOp::Insert(_)) => {
                    return plan_err!(
                        "INSERT INTO {}: on a cluster some rows would be there twice after an executor's death; COPY them \
                         to a file",
                        write.table_name
                    );
                }
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(plan)
    }
}

/// As DataFusion tells files from folders: by an option, or else by whether the name has an ending.
fn is_one_file(copy: &CopyTo) -> bool {
    let name = copy.output_url.rsplit('/').next().unwrap_or_default();
    let is_file = match copy.options.get("single_file_output") {
        Some(word) => word.trim() == "true",
        None => name.rsplit_once('.').is_some_and(|(_, ending)| !ending.is_empty()),
    };
    is_file && copy.partition_by.is_empty()
}
