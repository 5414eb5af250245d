/** The statuses of the C interface, `csrc/device/peel.h`. */
export const Status = {
  OK: 0,
  ARGUMENT: 1,
  FORMAT: 2,
  SOURCE: 3,
  BUDGET: 4,
  MEMORY: 6,
  INTERNAL: 7,
  NOT_HELD: 8,
  NO_USER: 9,
} as const;

/** Base of the errors of this package. */
export class PeelError extends Error {
  /** One of {@link Status}, as the C interface returns it. */
  readonly status: number;

  constructor(status: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.status = status;
  }
}

/** An argument is out of range or of a wrong type, or names an item that is not known. */
export class ArgumentError extends PeelError {
  constructor(message: string) {
    super(Status.ARGUMENT, message);
  }
}

/** Bytes that are no `.peel` file, one of a newer version, or a damaged one. */
export class FormatError extends PeelError {
  constructor(message: string) {
    super(Status.FORMAT, message);
  }
}

/** The file cannot be read from where it is, or has changed there. */
export class SourceError extends PeelError {
  constructor(message: string, options?: ErrorOptions) {
    super(Status.SOURCE, message, options);
  }
}

/** Too few bytes for the first blocks. */
export class BudgetError extends PeelError {
  /** The smallest budget that is enough. */
  readonly minimumBytes: number;

  constructor(message: string, minimumBytes: number) {
    super(Status.BUDGET, message);
    this.minimumBytes = minimumBytes;
  }
}

/** The item asked about is not held; a larger budget may hold it. */
export class NotHeldError extends PeelError {
  constructor(message: string) {
    super(Status.NOT_HELD, message);
  }
}

/** The bundle has no file of the user asked for. */
export class NoUserError extends PeelError {
  constructor(message: string) {
    super(Status.NO_USER, message);
  }
}

/** The recommender has been closed. */
export class ClosedError extends PeelError {
  constructor() {
    super(Status.ARGUMENT, "the recommender has been closed");
  }
}

/** The error of a status and message of the C interface. */
export function errorOf(status: number, message: string, minimumBytes: number): PeelError {
  switch (status) {
    case Status.ARGUMENT:
      return new ArgumentError(message);
    case Status.FORMAT:
      return new FormatError(message);
    case Status.SOURCE:
      return new SourceError(message);
    case Status.BUDGET:
      return new BudgetError(message, minimumBytes);
    case Status.NOT_HELD:
      return new NotHeldError(message);
    case Status.NO_USER:
      return new NoUserError(message);
    default:
      return new PeelError(status, message);
  }
}
