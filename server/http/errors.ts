/**
 * Every error answer of the server is a problem (RFC 9457): from refusals, from validation, from fastify, from bugs.
 */
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { PROBLEMS, type Problem, type ProblemCode, type Refusal, refuse, toProblem } from '#shared/problems.ts';

/** Answer with a problem. Also for routes that stream and so can't use `handle`. */
export const sendProblem = (reply: FastifyReply, refusal: Refusal, issues?: Problem['issues']): FastifyReply => {
  const problem = toProblem(refusal.code, refusal.detail, issues);
  // RFC 9110, section 11.6.1: a 401 says how to authenticate.
  if (problem.status === 401) void reply.header('www-authenticate', 'Bearer realm="sluice", Device realm="sluice"');
  return reply
    .code(problem.status)
    .header('cache-control', 'no-store')
    .type('application/problem+json')
    .serializer((body: unknown) => JSON.stringify(body))
    .send(problem);
};

/** Which problem fastify's own errors are; by code, never by message. */
const FASTIFY_ERRORS: Record<string, readonly [ProblemCode, string]> = {
  FST_ERR_CTP_BODY_TOO_LARGE: ['too-large', 'the body is larger than this route takes'],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: ['invalid-request', 'send application/json, or application/octet-stream to upload'],
  FST_ERR_CTP_EMPTY_JSON_BODY: ['invalid-request', 'the body is empty, but content-type says JSON'],
  FST_ERR_CTP_INVALID_JSON_BODY: ['invalid-request', 'the body is not JSON, or something in it is named __proto__'],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: ['invalid-request', 'the body is not as long as content-length says'],
  FST_ERR_BAD_URL: ['invalid-request', 'the URL is not well formed'],
  FST_ERR_MAX_PARAM_LENGTH: ['invalid-request', 'a part of the path is too long'],
  SLUICE_UNKNOWN_ENCODING: ['invalid-request', 'send the body as it is, or with content-encoding: zstd'],
  FST_ERR_HANDLER_TIMEOUT: ['unavailable', 'the server took too long'],
};

const answerError = (error: FastifyError, reply: FastifyReply): FastifyReply => {
  const known = FASTIFY_ERRORS[error.code];
  if (known !== undefined) return sendProblem(reply, { ok: false, code: known[0], detail: known[1] });
  if (error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500) {
    return sendProblem(reply, { ok: false, code: 'invalid-request', detail: 'the request is not well formed' });
  }
  // The sender went away in the middle of its body: nothing of ours failed, and no one is left to be answered.
  if (error.code === 'ECONNRESET' && reply.request.raw.destroyed) {
    reply.log.info({ event: 'request-broken-off' }, 'the sender went away before its request was whole');
    return sendProblem(reply, { ok: false, code: 'invalid-request', detail: 'the request is not whole' });
  }
  reply.log.error({ event: 'request-failed', err: error }, 'a request failed');
  // Internals stay in the log; the request id is what ties the two together.
  return sendProblem(reply, { ok: false, code: 'internal', detail: `request ${reply.request.id}` });
};

export const answerErrors = (app: FastifyInstance): void => {
  app.setErrorHandler<FastifyError>((error, _request, reply) => answerError(error, reply));
  app.setNotFoundHandler(sendNotFound);
};

export const sendNotFound = (request: FastifyRequest, reply: FastifyReply): FastifyReply =>
  sendProblem(
    reply,
    refuse('not-found', `${request.method} ${request.url.split('?', 1)[0]} does not exist; /docs lists what does`),
  );

/** For what fails before there is a request: bytes that are not HTTP, headers that are too large or too slow. */
export const rawProblem = (code: ProblemCode, detail: string): string => {
  const body = JSON.stringify(toProblem(code, detail));
  const [status, title] = PROBLEMS[code];
  return (
    `HTTP/1.1 ${status} ${title}\r\ncontent-type: application/problem+json\r\n` +
    `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`
  );
};
