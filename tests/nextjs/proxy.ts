import { NextResponse, type NextRequest } from "next/server";

const COOKIE = "olposthog_id";
const TIMEOUT_MILLISECONDS = 2000;

/** Let Django answer its own addresses, and make a visitor known before the page is rendered. */
export async function proxy(request: NextRequest): Promise<NextResponse> {
  const { pathname, search } = request.nextUrl;
  if (pathname.startsWith("/api/")) {
    return NextResponse.rewrite(new URL(pathname + search, process.env.DJANGO_URL));
  }
  if (request.cookies.has(COOKIE)) return NextResponse.next();
  const cookies = await cookiesOfDjango(request);
  const headers = new Headers(request.headers);
  const pairs = cookies.map((cookie) => cookie.split(";")[0]);
  headers.set("cookie", [headers.get("cookie"), ...pairs].filter(Boolean).join("; "));
  const response = NextResponse.next({ request: { headers } });
  for (const cookie of cookies) response.headers.append("set-cookie", cookie);
  return response;
}

/** Return the cookies that Django sets for a visitor who has none. */
async function cookiesOfDjango(request: NextRequest): Promise<string[]> {
  try {
    const response = await fetch(`${process.env.DJANGO_URL}/api/features/`, {
      cache: "no-store",
      headers: { cookie: request.headers.get("cookie") ?? "" },
      signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS),
    });
    return response.headers.getSetCookie();
  } catch {
    return []; // the page is rendered without flags
  }
}

export const config = { matcher: "/((?!_next/).*)" };
