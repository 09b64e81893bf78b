//! The Lambda function's executable.

#[tokio::main]
async fn main() -> Result<(), lambda_runtime::Error> {
    orphan_sweeper::lambda::serve().await
}
