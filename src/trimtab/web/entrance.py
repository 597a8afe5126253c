"""What stands at the door: who is signed in, which codes were used, how often somebody tried. One an application."""

from starlette.requests import Request
from starlette.responses import Response

from trimtab.web.codes import Door
from trimtab.web.limits import Tries
from trimtab.web.sessions import LONGEST_S, Session, Sessions

FORM_LASTS_S = 3600


class Entrance:
    """cookie: of sessions; form_cookie: of the form to sign in with. Both have the port in their name: cookies know no ports."""

    def __init__(self, *, port: int) -> None:
        import secrets

        from itsdangerous import URLSafeTimedSerializer

        self.sessions = Sessions()
        self.door = Door(port=port)
        self.by_address = Tries(burst=20, every_s=3.0)
        self.by_name = Tries(burst=5, every_s=30.0)
        self.cookie = f"trimtab_{port}"
        self.form_cookie = f"trimtab_form_{port}"
        self._forms = URLSafeTimedSerializer(secrets.token_bytes(32), salt="sign-in")

    def session_of(self, request: Request) -> Session | None:
        """By the token that a program sent, else by the cookie. Only the API and the stream of changes take tokens."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        path = request.url.path
        if scheme.lower() == "bearer" and (path.startswith("/api/") or path == "/events"):
            return self.sessions.find(token.strip(), "token")
        name = request.cookies.get(self.cookie)
        return self.sessions.find(name, "cookie") if name else None

    def put_cookie(self, response: Response, name: str) -> None:
        """Begin a session in the browser. Not `Secure`: loopback speaks HTTP."""
        response.set_cookie(self.cookie, name, max_age=int(LONGEST_S), path="/", httponly=True, samesite="strict")

    def drop_cookie(self, response: Response) -> None:
        response.delete_cookie(self.cookie, path="/", httponly=True, samesite="strict")

    def form_token(self, secret: str) -> str:
        """For the form to sign in with: of the browser that has `secret` in its cookie."""
        made = self._forms.dumps(secret)
        return made.decode() if isinstance(made, bytes) else str(made)

    def is_own_form(self, request: Request, token: object) -> bool:
        """Whether the form came from this browser, a while ago at most: nobody can sign another one in."""
        from itsdangerous import BadData

        try:
            return bool(self._forms.loads(str(token), max_age=FORM_LASTS_S) == request.cookies.get(self.form_cookie, "\0"))
        except BadData:
            return False
