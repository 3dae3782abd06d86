/** One definition serves the server (validation, handler types, OpenAPI) and every client (typed calls). */
import type { z } from 'zod';

export type Role = 'admin' | 'operator' | 'ci' | 'viewer' | 'device' | 'public';

export type Route = {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** fastify notation: `/api/v1/releases/:release`. */
  path: string;
  /** Who may call it. `admin` may call everything that is not for devices. */
  roles: readonly Role[];
  /** One sentence for OpenAPI and for people. */
  summary: string;
  tags: readonly string[];
  params?: z.ZodType;
  query?: z.ZodType;
  /** `'stream'`: the raw body, `application/octet-stream`. */
  body?: z.ZodType | 'stream';
  /** The most that a JSON body may have; 64 KiB unless told. */
  bodyBytesMax?: number;
  answer: z.ZodType;
  /** The HTTP status of success; 200 unless told. */
  success?: 200 | 201 | 204;
};

export const route = <const R extends Route>(definition: R): R => definition;

type Parsed<S> = S extends z.ZodType ? z.output<S> : undefined;
type Sent<S> = S extends z.ZodType ? z.input<S> : undefined;
/** What a handler gets, after validation; a stream is the raw body, to be read once. */
export type RouteInput<R extends Route> = {
  params: Parsed<R['params']>;
  query: Parsed<R['query']>;
  body: R['body'] extends 'stream' ? AsyncIterable<Uint8Array> : Parsed<R['body']>;
};
/** What a caller gives, before defaults are filled in. */
export type RouteCall<R extends Route> = (R['params'] extends z.ZodType ? { params: Sent<R['params']> } : unknown) &
  (R['query'] extends z.ZodType ? { query?: Sent<R['query']> } : unknown) &
  (R['body'] extends z.ZodType ? { body: Sent<R['body']> } : unknown);
export type RouteAnswer<R extends Route> = z.output<R['answer']>;
