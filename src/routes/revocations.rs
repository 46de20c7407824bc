//! Operator requests on the admin listener: the `revoke` command sends them.

use std::sync::Arc;

use actix_web::{
    Error, HttpResponse,
    http::StatusCode,
    web::{Data, Payload},
};

use super::{access::Access, answer, body, context::Context};
use crate::{
    clock::UnixMillis,
    detached::Detached,
    refusal::{Refusal, ReportedRefusal, Row},
    revocation::{
        Revocation,
        operator::{Action, RequestFailed, RevocationReport, RevocationRequest},
    },
};

/// The most bytes of a request's body.
const LARGEST_BODY: usize = 16 * 1024;

/// What the route for operator requests needs.
#[derive(Debug)]
pub struct OperatorRequests {
    /// Carries them out.
    pub revocation: Arc<Revocation>,
    /// Carries them on when the operator goes away.
    pub detached: Detached,
}

/// Carries out an operator request. The answer is 200 with a report, whatever the outcome of its parts.
pub(super) async fn post(
    request: Context,
    payload: Payload,
    operator: Data<OperatorRequests>,
    access: Data<Access>,
) -> Result<HttpResponse, Error> {
    access.admit(&request.headers)?;
    request.clock.verified();
    if !body::is_of_type(&request.headers, "application/json") {
        return Err(Refusal::NotJson.into());
    }
    let body = body::read(&request, payload, LARGEST_BODY).await.map_err(Refusal::AdminBody)?;
    let revocation_request = RevocationRequest::parse(&body).map_err(Refusal::from)?;
    let work = carry_out(Arc::clone(&operator.revocation), revocation_request, UnixMillis::now());
    let Ok(report) = operator.detached.run(work).await else {
        let Row { reason, status, .. } = Refusal::RevocationRequestInterrupted.row();
        tracing::error!(reason, status, "operator request interrupted");
        return Err(ReportedRefusal(Refusal::RevocationRequestInterrupted).into());
    };
    Ok(answer::json(StatusCode::OK, &report.map_err(Refusal::from)?))
}

async fn carry_out(
    revocation: Arc<Revocation>,
    request: RevocationRequest,
    now: UnixMillis,
) -> Result<RevocationReport, RequestFailed> {
    let report = revocation.execute(&request, now).await?;
    let action = match request.action {
        _ if request.dry_run => "dry run",
        Action::Deny(_) => "deny",
        Action::Lift => "lift",
    };
    let (tenant, target, complete) = (report.tenant.as_str(), request.target.id(), report.complete);
    tracing::info!(tenant, target, action, complete, "operator request carried out");
    Ok(report)
}
