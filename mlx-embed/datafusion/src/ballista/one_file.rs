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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::sync::Arc;

    use datafusion::datasource::file_format::csv::CsvFormatFactory;
    use datafusion::datasource::file_format::format_as_file_type;
    use datafusion::logical_expr::LogicalPlanBuilder;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// With a table of documents.
    async fn context() -> Result<SessionContext> {
        let (ctx, folder) = (SessionContext::new(), tempfile::tempdir()?);
        fs::write(folder.path().join("docs.csv"), "id,body\n1,a\n")?;
        let docs =
            format!("CREATE EXTERNAL TABLE docs STORED AS CSV LOCATION '{}/'", folder.path().display());
        ctx.sql(&docs).await?.collect().await?;
        Ok(ctx)
    }

    async fn checked(statement: &str) -> Result<LogicalPlan> {
        let plan = context().await?.state().create_logical_plan(statement).await?;
        OneFile.analyze(plan, &ConfigOptions::default())
    }

    #[tokio::test]
    async fn one_file_may_be_written() {
        for statement in ["COPY docs TO 'v.parquet'", "COPY docs TO 'a.folder/v.csv'", "SELECT id FROM docs"]
        {
            assert!(checked(statement).await.is_ok(), "{statement}");
        }
    }

    #[tokio::test]
    async fn what_an_executors_death_would_write_twice_is_refused() {
        for (statement, reason) in [
            ("COPY (SELECT id FROM docs) TO 'folder/' STORED AS PARQUET", "COPY TO 'folder/'"),
            ("COPY (SELECT id FROM docs) TO 'a.b/folder' STORED AS CSV", "COPY TO 'a.b/folder'"),
            ("COPY docs TO 'by.parquet' PARTITIONED BY (id)", "COPY TO 'by.parquet'"),
            ("INSERT INTO docs VALUES (2, 'b')", "INSERT INTO docs"),
            ("EXPLAIN INSERT INTO docs SELECT id, body FROM docs", "INSERT INTO docs"),
        ] {
            let Err(error) = checked(statement).await else { panic!("{statement} passes") };
            assert!(error.to_string().contains(reason), "{statement}: {error}");
        }
    }

    /// It is one of data frames; SQL has no word for it.
    #[tokio::test]
    async fn the_option_goes_before_the_name() -> Result<()> {
        let (_, docs) = context().await?.table("docs").await?.into_parts();
        for (to, option, passes) in [("v", "true", true), ("v", "false", false), ("v.csv", "false", false)] {
            let options = HashMap::from([("single_file_output".to_owned(), option.to_owned())]);
            let csv = format_as_file_type(Arc::new(CsvFormatFactory::new()));
            let copy = LogicalPlanBuilder::copy_to(docs.clone(), to.to_owned(), csv, options, Vec::new())?;
            assert_eq!(
                OneFile.analyze(copy.build()?, &ConfigOptions::default()).is_ok(),
                passes,
                "{to}, {option}"
            );
        }
        Ok(())
    }
}
